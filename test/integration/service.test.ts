/** The daemon as a unit: what systemd hears of it, and a socket that goes on listening while the daemon is away. */
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { listenUnix } from '../../src/sys/unix-socket.ts';
import { connectCri } from '../rig/cri.ts';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { type ContainerLab, openContainerLab, pidOf, SKIP, SLEEP, sh } from './container-lab.ts';

describe('socket activation', { skip: SKIP }, () => {
  let folder: string;
  let listener: ReturnType<typeof listenUnix>;
  let lab: ContainerLab;
  let socket: string;
  before(async () => {
    folder = privateFolder('sluice-act');
    socket = join(folder, 'cri.sock');
    listener = listenUnix(socket);
    lab = await openContainerLab({
      index: 48,
      inherit: listener.number,
      socket,
      program: activated(folder),
    });
  });
  after(async () => {
    await lab?.[Symbol.asyncDispose]();
    listener?.[Symbol.dispose]();
    rmSync(folder, { recursive: true, force: true });
  });

  test('calls during a restart wait instead of failing, and pods stay', async () => {
    const { daemon } = lab;
    const cri = connectCri(socket);
    await using pod = await lab.pod('stays');
    const id = await pod.run('main', SLEEP);
    const pid = await pidOf(cri, id);
    // As the kubelet does with evented PLEG: a stream that never ends by itself must not hold the daemon up.
    let streamEnded = 0;
    const stream = (async () => {
      for await (const _event of cri.getContainerEvents());
      streamEnded = performance.now();
    })();
    await sleep(100);

    let failures = 0;
    let longest = 0;
    let calls = 0;
    let over = false;
    const caller = (async () => {
      while (!over) {
        const fresh = connectCri(socket);
        const began = performance.now();
        try {
          await fresh.version({}, { timeoutMs: 60_000 });
        } catch (error) {
          // A call that the ending daemon had accepted may be cut; one that finds no daemon may not fail.
          failures++;
          console.error(`call failed: ${error}`);
        }
        longest = Math.max(longest, performance.now() - began);
        calls++;
        fresh.close();
        await sleep(20);
      }
    })();
    await sleep(300);
    const before = calls;
    const stopped = performance.now();
    assert.equal(await daemon.stop(), 0);
    const away = performance.now();
    await stream;
    assert.ok(streamEnded < away, 'the stream ended well, before the daemon did');
    assert.ok(away - stopped < 1500, `the daemon took ${Math.round(away - stopped)} ms to end`);
    await sleep(200);
    await daemon.start();
    await sleep(300);
    over = true;
    await caller;
    assert.ok(calls > before + 3, `${calls} calls, ${before} of them before the restart`);
    assert.equal(failures, 0);
    assert.ok(longest > 200, 'one of them waited for the next daemon');
    console.log(`the longest call took ${Math.round(longest)} ms`);
    assert.equal(await pidOf(cri, id), pid);
    assert.equal(await sh(cri, id, 'echo here'), 'here');
    cri.close();
  });

  test('shims and containers do not inherit the socket', async () => {
    await using pod = await lab.pod('inherits');
    await pod.run('main', SLEEP);
    const own = readlinkSync(`/proc/self/fd/${listener.number}`);
    const holders = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && holds(pid, own));
    assert.deepEqual(holders.map(Number).sort(), [process.pid, lab.daemon.pid()].sort());
  });
});

/** A unit's way of starting it: LISTEN_PID is the shell's own, which becomes the daemon. */
function activated(folder: string): string {
  const script = join(folder, 'activated');
  writeFileSync(script, `LISTEN_FDS=1 LISTEN_PID=$$ exec /bin/sh ${ROOT}/bin/sluiced "$@"\n`);
  return script;
}

function holds(pid: string, target: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`) === target;
      } catch {
        return false; // closed meanwhile
      }
    });
  } catch {
    return false; // ended meanwhile
  }
}
