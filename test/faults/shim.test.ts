import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { program } from '../rig/paths.ts';
import { processesOf, waitFor } from '../rig/proc.ts';
import { type Lab, openLab, pausePid, SKIP, writeScript } from './lab.ts';

/** A runtime whose `create` makes the container's cgroup and fails. */
const LITTERS = `for word; do
  [ "$last" = --bundle ] && bundle=$word
  [ "$word" = create ] && creates=1
  last=$word
done
[ -n "$creates" ] || exec RUNC "$@"
path=$(sed 's/.*"cgroupsPath":"\\([^"]*\\)".*/\\1/' "$bundle/config.json")
for top in /sys/fs/cgroup/unified /sys/fs/cgroup/pids /sys/fs/cgroup; do
  [ -e $top/cgroup.procs ] && mkdir -p "$top$path" && break
done
echo "made $top$path" >>"$0.made"
exit 1`;

let lab: Lab;
const skip = SKIP;

/** A program that listens on a unix socket and reads for ever, as a shim that hangs does. */
const MUTE_SERVER = `
import { createServer } from 'node:net';
createServer((socket) => socket.on('error', () => {}).resume()).listen(process.argv[2]);
`;

before(async () => {
  if (skip) return;
  lab = await openLab({
    index: 11,
    sandboxMode: 'pause',
    runtimes: (folder) => {
      const runc = program('runc');
      const shim = program('containerd-shim-runc-v2');
      const script = (name: string, text: string) => writeScript(join(folder, name), `#!/bin/sh\n${text}\n`);
      writeScript(join(folder, 'mute.mjs'), MUTE_SERVER);
      // Its name is not the one that may do without a task of the sandbox, so these pods have a pause process.
      const fakeShim = (name: string, onStart: string) => {
        // `delete` is answered as a real shim does, so that clean-up has something to call.
        const text = `case " $* " in *" delete "*) exit 0 ;; esac\n${onStart}`;
        return { binary: runc, shim: script(`shim-${name}`, text) };
      };
      const refusing = (command: string) => ({
        shim,
        sandbox_mode: 'pause',
        binary: script(
          `runc-${command}`,
          // As runc does: the reason goes to stderr and, as JSON, to the file after --log, which is where the shim
          // looks.
          `log=
for word; do
  [ "$last" = --log ] && log=$word
  last=$word
  [ "$word" = ${command} ] || continue
  echo "the rig refuses ${command}" >&2
  [ -z "$log" ] || echo '{"level":"error","msg":"the rig refuses ${command}"}' >>"$log"
  exit 1
done
exec ${runc} "$@"`,
        ),
      });
      return {
        'shim-missing': { binary: runc, shim: join(folder, 'no-such-shim') },
        'shim-garbage': fakeShim('garbage', 'echo "Hello, I am no shim"'),
        'shim-silent': fakeShim('silent', 'exit 0'),
        'shim-refuses': fakeShim('refuses', 'echo "the rig has no shim today" >&2; exit 1'),
        'shim-hangs': fakeShim('hangs', 'exec sleep 600'),
        'shim-nobody': fakeShim('nobody', `echo "unix://${folder}/nobody.sock"`),
        'shim-mute': fakeShim(
          'mute',
          `${process.execPath} ${folder}/mute.mjs ${folder}/mute.sock >/dev/null 2>&1 &
           while [ ! -S ${folder}/mute.sock ]; do sleep 0.05; done
           echo "unix://${folder}/mute.sock"`,
        ),
        'runc-missing': { shim, sandbox_mode: 'pause', binary: join(folder, 'no-such-runc') },
        'runc-create': refusing('create'),
        'runc-start': refusing('start'),
        'runc-litters': {
          shim,
          sandbox_mode: 'pause',
          // As crun does on a hybrid set-up: it fails, and an empty cgroup stays.
          binary: script('runc-litters', LITTERS.replaceAll('RUNC', runc)),
        },
      };
    },
  });
});
after(async () => lab?.[Symbol.asyncDispose]());

const FAULTS: [handler: string, words: RegExp][] = [
  ['shim-missing', /shim.*no-such-shim/s],
  ['shim-garbage', /shim.*I am no shim/s],
  ['shim-silent', /shim/],
  ['shim-refuses', /shim.*the rig has no shim today/s],
  ['shim-hangs', /shim/],
  ['shim-nobody', /shim/],
  ['shim-mute', /no response within/],
  ['runc-missing', /create.*no-such-runc/s],
  ['runc-create', /create.*the rig refuses create/s],
  ['runc-start', /start.*the rig refuses start/s],
  ['runc-litters', /create/],
];
for (const [handler, words] of FAULTS) {
  test(`a launch with ${handler.replace('-', ': ')}`, { skip, timeout: 100_000 }, async () => {
    // A name of its own: the retry of a launch that is still in flight would join it.
    await lab.launchFails(`doomed-${handler}`, { words }, { handler, timeoutMs: 80_000 });
    // The mute shim is a process of the test's own making: the daemon can only stop asking it.
    for (const p of processesOf(lab.folder)) if (p.command.includes('mute.mjs')) process.kill(p.pid, 'SIGKILL');
    await lab.assertSound();
  });
}

test('a pod whose shim was killed is not ready, and is stopped and removed', { skip }, async () => {
  const id = await lab.launch('orphan');
  const { info } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id, verbose: true });
  const pid = pausePid(info);
  const shim = processesOf(lab.folder).find((p) => p.command.includes('shim') && p.command.includes(id));
  assert.ok(shim, 'the pod has a shim');
  process.kill(shim.pid, 'SIGKILL');
  await waitFor('the pod to be not ready', 10_000, async () => {
    const { status } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id });
    return status?.state === 1 || undefined;
  });
  await lab.stopAndRemove(id);
  await waitFor('the pause process to end', 5000, () => isOver(pid));
  await lab.assertSound();
});

test('a pod whose pause process was killed is not ready, and is stopped and removed', { skip }, async () => {
  const id = await lab.launch('headless');
  const { info } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id, verbose: true });
  process.kill(pausePid(info), 'SIGKILL');
  await waitFor('the pod to be not ready', 10_000, async () => {
    const { status } = await lab.daemon.cri.podSandboxStatus({ podSandboxId: id });
    return status?.state === 1 || undefined;
  });
  await lab.stopAndRemove(id);
  await lab.assertSound();
});

/** Gone, or waiting to be reaped by whoever is its parent now. */
function isOver(pid: number): true | undefined {
  if (!existsSync(`/proc/${pid}/stat`)) return true;
  return /\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'latin1')) || undefined;
}
