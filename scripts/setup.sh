#!/bin/sh
# Installs what a fresh clone needs to run on Debian 12. Takes a tenth of a second when nothing is missing.
#
#   setup.sh [--system] [--test] [--package]
#
#   (nothing)  npm packages, Node 24 among them
#   --system   also the Debian packages that the daemon runs: runc, the shim, CNI plugins, iptables, ...
#   --test     also those that the tests, the benchmark and the conformance run want
#   --package  also those that make a release and its packages: strip, dpkg-deb, rpmbuild, lintian
#
# As root on Debian it installs; elsewhere it says what is missing and ends with status 1.
set -eu
cd "$(dirname "$0")/.."
say() { echo "setup: $*" >&2; }

system= test= package=
for option; do
	case $option in
	--system) system=1 ;;
	--test) test=1 ;;
	--package) package=1 ;;
	*) say "no such option: $option (there are --system, --test and --package)"; exit 2 ;;
	esac
done

# npm run puts node_modules/.bin in front of PATH; npm itself must not run under the Node that it is about to replace.
bare_path=$(printf %s "$PATH" | tr : '\n' | grep -v '/node_modules/\.bin$' | grep -v '/node-gyp-bin$' | paste -sd: -)
# Debian keeps some tools where a user's PATH does not reach.
PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin

# ---- Debian packages. Each is recognised by the program or file in use, so that one from another source counts.

missing=
want() { # want PACKAGE CONDITION...
	debian=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $debian"
}
any() { for f; do [ -e "$f" ] && return 0; done; return 1; }

if [ -n "$system" ]; then
	want runc command -v runc
	want containerd command -v containerd-shim-runc-v2
	want containernetworking-plugins any /usr/lib/cni/bridge /opt/cni/bin/bridge
	want iptables command -v iptables
	want iproute2 command -v ip
	want iputils-ping command -v ping
	want util-linux command -v nsenter
fi
if [ -n "$test" ]; then
	want docker-registry command -v docker-registry
	want busybox-static any /usr/share/doc/busybox-static
	want prometheus command -v promtool
	want procps command -v pgrep
	want nginx-light any /usr/sbin/nginx
	want gcc command -v gcc
	want libc6-dev any /usr/include/stdio.h
	want libseccomp-dev any /usr/include/seccomp.h
	want libfuse3-dev any /usr/include/fuse3/fuse.h
	want pkg-config command -v pkg-config
	want nftables command -v nft
	want conntrack command -v conntrack
	want crun command -v crun
	want btrfs-progs command -v mkfs.btrfs
	want xfsprogs command -v mkfs.xfs
	want binutils-aarch64-linux-gnu command -v aarch64-linux-gnu-as
	want protobuf-compiler command -v protoc
	want libprotobuf-dev any /usr/include/google/protobuf/any.proto
	want ca-certificates any /etc/ssl/certs/ca-certificates.crt
	want binutils command -v strip
	want chromium any /usr/bin/chromium
fi
if [ -n "$package" ]; then
	want binutils command -v strip
	want dpkg command -v dpkg-deb
	want rpm command -v rpmbuild
	want lintian command -v lintian
fi
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		say "missing Debian packages:$missing (as root: apt-get install$missing)"
		exit 1
	fi
	say "installing Debian packages:$missing"
	# policy-rc.d keeps their services from starting: a second containerd, a registry on port 5000.
	policy=/usr/sbin/policy-rc.d
	allow=:
	if [ ! -e $policy ]; then
		allow="rm -f $policy"
		trap "$allow" EXIT
		trap 'exit 130' INT
		trap 'exit 143' TERM
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
	fi
	log=$(mktemp)
	get() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -y --no-install-recommends install $missing >"$log" 2>&1; }
	# The lists may be absent or stale; a first try without fetching them is quicker where they are good.
	if ! get && ! { apt-get -o DPkg::Lock::Timeout=120 update >>"$log" 2>&1 && get; }; then
		tail -n 20 "$log" >&2
		say "apt-get could not install:$missing"
		exit 1
	fi
	rm -f "$log"
	$allow
	trap - EXIT INT TERM
fi

# ---- npm packages, exactly those of package-lock.json.

node24() { [ -x node_modules/.bin/node ] && node_modules/.bin/node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 24 ? 0 : 1)' 2>/dev/null; }

stamp=node_modules/.sluice-setup
sum=$(cksum <package-lock.json)
if [ ! -f $stamp ] || [ "$(cat $stamp)" != "$sum" ] || [ ! -e node_modules/.bin/node ]; then
	if ! PATH=$bare_path command -v npm >/dev/null; then
		say "npm is missing: install Node 20 or newer with npm (Debian packages nodejs and npm, or nodejs.org)"
		exit 1
	fi
	have=$(PATH=$bare_path node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')
	[ "${have:-0}" -ge 20 ] || { say "npm needs Node 20 or newer to set this up, found ${have:-none}"; exit 1; }
	# npm ci empties the folder first, and through a link it would be that of another checkout.
	[ ! -L node_modules ] || { say "node_modules is a link to $(readlink node_modules): run setup there"; exit 1; }
	say "installing npm packages"
	PATH=$bare_path npm ci --no-audit --no-fund --loglevel=error
	# With some npm settings (ignore-scripts) the package `node` does not fetch its program; this is what its script does.
	if ! node24; then
		say "fetching Node 24"
		(cd node_modules/node && PATH=$bare_path node installArchSpecificPackage.js) || :
		mkdir -p node_modules/.bin
		[ -x node_modules/node/bin/node ] && ln -sf ../node/bin/node node_modules/.bin/node
	fi
	if ! node24; then
		say "npm could not fetch Node 24 (package node-linux-*) for this machine"
		exit 1
	fi
	node_modules/.bin/node -e 'require("koffi")' 2>/dev/null || { say "koffi has no prebuilt library for this machine"; exit 1; }
	echo "$sum" >$stamp
fi

# npm takes the package away that Node's program came in, and with it Node's licence, which a release must bring along.
if [ -n "$package$test" ] && ! any node_modules/node/node_modules/node-*/LICENSE; then
	say "fetching Node's licence"
	(cd node_modules/node && PATH=$bare_path node installArchSpecificPackage.js >/dev/null) || :
	any node_modules/node/node_modules/node-*/LICENSE || { say "npm could not fetch Node 24 (package node-linux-*) for this machine"; exit 1; }
fi
