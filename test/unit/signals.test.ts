import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ROOT } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';

const PROGRAM = `
import { handleSignals } from '${join(ROOT, 'src/main/signals.ts')}';
import { createLog } from '${join(ROOT, 'src/node/observe/log.ts')}';
let reports = 0;
const daemon = { report: async () => (reports++ === 0 ? { jobs: 3 } : Promise.reject(new Error('no report'))) };
let reloads = 0;
handleSignals(createLog({ level: 'info' }), {
  daemon: () => daemon,
  reload: () => console.log('reload ' + ++reloads),
});
console.log('listening');
setInterval(() => {}, 1000);
`;

for (const launcher of ['bin/sluiced', 'packaging/bin/sluiced']) {
  test(`${launcher} starts Node without an inspector at SIGUSR1`, () => {
    assert.match(readFileSync(join(ROOT, launcher), 'utf8'), /^run_daemon .* --disable-sigusr1 /m);
  });
}

test('SIGUSR1 reports, also when the report fails, and opens nothing; SIGHUP reloads', async () => {
  const child = spawn(process.execPath, ['--disable-sigusr1', '--input-type=module', '-e', PROGRAM]);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
  const until = (words: string) => waitFor(words, 10_000, () => output.includes(words) || undefined);
  try {
    await until('listening');
    child.kill('SIGUSR1');
    await until('"signal":"SIGUSR1","jobs":3,"message":"report of what the daemon does"');
    child.kill('SIGUSR1');
    await until('"reason":"no report"');
    child.kill('SIGHUP');
    await until('reload 1');
    assert.doesNotMatch(output, /Debugger/);
    assert.deepEqual(listeners(child.pid ?? 0), []);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

/** Inodes of the process's listening TCP sockets. */
function listeners(pid: number): string[] {
  const tables = ['tcp', 'tcp6'].map((name) => readFileSync(`/proc/${pid}/net/${name}`, 'utf8'));
  const listening = tables
    .flatMap((table) => table.trim().split('\n').slice(1))
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , , state]) => state === '0A')
    .map((fields) => `socket:[${fields[9]}]`);
  const own = new Set(readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`)));
  return listening.filter((socket) => own.has(socket));
}
