# Sourced by bin/sluiced: becomes the daemon.
#
# As the first process of a PID namespace, a container without an init, the daemon would be the parent of every orphan in it: shims, and what
# execs and plugins leave behind. They would stay as zombies until no process could be started any more. So a shell is the first process
# there: it collects them while it waits for the daemon, passes signals on, and ends as the daemon does, with which the namespace ends.
run_daemon() {
	[ $$ -eq 1 ] || exec "$@"
	"$@" <&0 & # a shell without job control would give it /dev/null
	daemon=$!
	for signal in HUP INT QUIT TERM USR1 USR2; do
		trap "passed=yes; kill -$signal $daemon" "$signal"
	done
	status=127
	while :; do
		passed=
		wait "$daemon"
		code=$?
		[ "$code" -eq 127 ] || status=$code # 127: it has ended, and was collected by the wait before
		[ -n "$passed" ] || exit "$status"  # a signal that was passed on ended wait early
	done
}
