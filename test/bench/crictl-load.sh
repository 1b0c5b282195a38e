#!/bin/sh
# Load by parallel crictl: what an operator would type, each pod a crictl of its own.
#
#   crictl-load.sh [-e SOCKET] [-n PODS] [-p PARALLEL]
#
# Launches, stops and removes the pods; prints p50, p95 and p99 of each crictl call in milliseconds and pods per second.
# crictl's own start (some 30 ms of CPU) is part of each time.
set -eu
socket=/run/sluice/sluice.sock pods=32 parallel=8
while getopts e:n:p: option; do
	case $option in
	e) socket=${OPTARG#unix://} ;;
	n) pods=$OPTARG ;;
	p) parallel=$OPTARG ;;
	*) echo "usage: $0 [-e SOCKET] [-n PODS] [-p PARALLEL]" >&2; exit 2 ;;
	esac
done
here=$(cd "$(dirname "$0")/../.." && pwd)
CRICTL=$here/.cache/bin/crictl
[ -x "$CRICTL" ] || CRICTL=$(command -v crictl) || { echo "crictl is missing: node test/rig/build.ts crictl" >&2; exit 1; }
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
printf 'runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\ntimeout: 240\n' "$socket" "$socket" >"$WORK/crictl.yaml"
export CRICTL WORK

# One call, its milliseconds to a file of its own: phase(run|stop|remove) and a number or an id.
cat >"$WORK/one" <<'EOF'
set -eu
began=$(date +%s%N)
case $1 in
run)
	printf '{"metadata":{"name":"crictl-%s","namespace":"crictl-load","uid":"uid-%s-%s","attempt":0},"linux":{}}' "$2" "$$" "$2" >"$WORK/pod-$2.json"
	"$CRICTL" --config "$WORK/crictl.yaml" runp "$WORK/pod-$2.json" >"$WORK/id-$2"
	;;
stop) "$CRICTL" --config "$WORK/crictl.yaml" stopp "$2" >/dev/null ;;
remove) "$CRICTL" --config "$WORK/crictl.yaml" rmp "$2" >/dev/null ;;
esac
echo $((($(date +%s%N) - began) / 1000)) >"$WORK/time-$1-$2"
EOF

phase() { # phase NAME, items on stdin
	began=$(date +%s%N)
	status=0
	xargs -r -P "$parallel" -n 1 sh "$WORK/one" "$1" || status=$?
	ended=$(date +%s%N)
	cat "$WORK"/time-"$1"-* 2>/dev/null | sort -n | awk -v name="$1" -v ns=$((ended - began)) '
		{ us[NR] = $1 }
		function at(q) { i = int((NR - 1) * q + 0.5) + 1; return us[i] / 1000 }
		END { if (NR) printf "%-8s p50 %8.1f  p95 %8.1f  p99 %8.1f ms   %6.1f pods/s (%d pods)\n", name, at(0.5), at(0.95), at(0.99), NR * 1e9 / ns, NR }'
	return $status
}

failed=0
seq "$pods" | phase run || failed=1
cat "$WORK"/id-* 2>/dev/null | phase stop || failed=1
cat "$WORK"/id-* 2>/dev/null | phase remove || failed=1
exit $failed
