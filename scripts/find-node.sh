# Sourced with $root set: leaves a Node of version 24 or newer in NODE24, or ends with a sentence that says what to do.
# The real path of npm's own one is taken, so that nothing depends on PATH or a symbolic link later.
NODE24=$(readlink -f "$root/node_modules/.bin/node" 2>/dev/null)
if [ ! -x "$NODE24" ]; then
	NODE24=$(command -v node || :)
	found=$([ -n "$NODE24" ] && "$NODE24" --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/' || :)
	if [ "${found:-0}" -lt 24 ]; then
		echo "sluice: needs Node 24, found ${found:-none}: run \"npm run setup\" in $root, or put Node 24 on PATH" >&2
		exit 127
	fi
fi
