import assert from 'node:assert/strict';
import { closeSync, constants, openSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Stdio } from '../../src/node/streaming/stdio.ts';
import type { IoRegistration, StdioEvent } from '../../src/workers/stdio/protocol.ts';
import { hangingFolder, SKIP_FUSE } from '../rig/hangfs.ts';
import { privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';

const lines = (path: string) =>
  readFileSync(path, 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.slice(31));

test('logs in a folder that hangs: only their containers wait, and nothing is lost', { skip: SKIP_FUSE }, async () => {
  const folder = privateFolder('sluice-hung-log');
  const events: StdioEvent[] = [];
  const made: number[] = [];
  try {
    await using hanging = await hangingFolder(folder);
    await using stdio = new Stdio({
      execDir: join(folder, 'exec'),
      backend: {} as never,
      onEvent: (event) => events.push(event),
      onWorkerDied: (error) => assert.fail(error),
    });
    const registration = (id: string, logPath: string): IoRegistration => ({
      id,
      fifos: { stdin: '', stdout: join(folder, id, 'stdout'), stderr: '' },
      tty: true,
      logPath,
      maxLine: 16384,
      stdinOnce: false,
    });
    /** Opens the IO of a container and returns its stdout, as the shim has it. */
    const open = async (io: IoRegistration) => {
      await stdio.openIo(io);
      const write = openSync(io.fifos.stdout, constants.O_WRONLY | constants.O_NONBLOCK);
      made.push(write, openSync(io.fifos.stdout, constants.O_RDONLY | constants.O_NONBLOCK));
      return write;
    };
    const local = registration('local', join(folder, 'local/0.log'));
    const remote = registration('remote', join(hanging.path, 'pod/remote/0.log'));
    const [localOut, remoteOut] = [await open(local), await open(remote)];
    const behind = join(hanging.behind, 'pod/remote/0.log');
    assert.equal(statSync(behind).mode & 0o777, 0o640);
    writeSync(remoteOut, 'before\n');
    await waitFor('the first line', 5000, () => lines(behind)[0] === 'stdout F before' || undefined);

    hanging.hang();
    writeSync(remoteOut, 'while it hangs\n');
    const began = performance.now();
    const late = registration('late', join(hanging.path, 'late/0.log'));
    const refused = assert.rejects(stdio.openIo(late), { code: 'TIMED_OUT', message: /did not answer within 10 s/ });
    for (let i = 0; i < 20; i++) {
      writeSync(localOut, `${i}\n`);
      await waitFor('the local line', 2000, () => lines(local.logPath).length === i + 1 || undefined);
    }
    assert.ok(performance.now() - began < 5000, 'the local log went on');
    // The FIFO, the pipe and one read between them take some 200 KiB; then the container waits, and nobody else.
    const chunk = Buffer.from(`${'x'.repeat(1023)}\n`);
    let written = 0;
    await waitFor('the container to block', 20_000, () => {
      try {
        for (;;) written += writeSync(remoteOut, chunk);
      } catch (error) {
        assert.equal((error as NodeJS.ErrnoException).code, 'EAGAIN');
      }
      return written > 100 << 10 || undefined;
    });
    const draining = performance.now();
    await stdio.drain(remote.id, { quietMs: 20, maxMs: 500 });
    assert.ok(performance.now() - draining < 8000, 'the end of the container does not wait for ever');
    await refused;
    await assert.rejects(stdio.openIo(late), /hangs: process \d+/);

    hanging.resume();
    const whole = Math.floor(written / chunk.length);
    await waitFor(
      'the whole log',
      20_000,
      () => lines(behind).filter((line) => line.length > 1000).length >= whole || undefined,
    );
    assert.equal(lines(behind)[1], 'stdout F while it hangs');
    await stdio.removeIo(remote);
    await stdio.removeIo(local);
    assert.deepEqual(events, []);
  } finally {
    for (const fd of made) closeSync(fd);
    rmSync(folder, { recursive: true, force: true });
  }
});
