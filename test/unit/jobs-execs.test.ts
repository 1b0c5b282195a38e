import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { codeOf, SluiceError } from '../../src/errors.ts';
import { Execs, StreamedExecs } from '../../src/pipeline/jobs/execs.ts';
import { type JobLab, openJobLab } from './job-fixture.ts';

const fifos = { stdin: '', stdout: '/fifo/stdout', stderr: '/fifo/stderr' };

/** A running container whose bundle has a spec, and the exec of one command in it. */
async function running(lab: JobLab) {
  const sandbox = await lab.launch();
  const row = await lab.add(sandbox);
  mkdirSync(row.bundle, { recursive: true });
  const process = { args: ['/bin/app'], env: ['A=b'], cwd: '/', user: { uid: 7, gid: 7 } };
  writeFileSync(join(row.bundle, 'config.json'), JSON.stringify({ process }));
  const exec = { containerId: row.id, execId: 'e1', cmd: ['true'], tty: false, fifos };
  return { row, exec, shim: lab.shims.get(sandbox.id) ?? assert.fail('no shim') };
}

test('an exec has the environment and user of its container, is started, waited for and deleted', async () => {
  using lab = openJobLab();
  const { exec } = await running(lab);
  const execs = new Execs(lab.ctx);
  let asked: { process?: { args?: string[]; env?: string[]; user?: object } } = {};
  lab.hooks.set('task.exec', (input) => {
    asked = input as typeof asked;
  });
  await execs.startExec(exec);
  assert.deepEqual(asked.process?.args, ['true']);
  assert.deepEqual(asked.process?.env, ['A=b']);
  assert.deepEqual(asked.process?.user, { uid: 7, gid: 7 });
  await execs.endExec(exec);
  assert.deepEqual(lab.calls.filter((call) => call.startsWith('task.')).slice(-3), [
    'task.exec',
    'task.start',
    'task.delete',
  ]);
});

test('an exec that cannot be started is deleted, and the error is the start’s', async () => {
  using lab = openJobLab();
  const { exec } = await running(lab);
  lab.hooks.set('task.start', new SluiceError('RUNTIME_FAILED', 'no such file'));
  await assert.rejects(new Execs(lab.ctx).startExec(exec), /no such file/);
  assert.equal(lab.calls.at(-1), 'task.delete');
});

test('a container that does not run, has no bundle or no shim takes no exec', async () => {
  using lab = openJobLab();
  const { row, exec, shim } = await running(lab);
  const execs = new Execs(lab.ctx);
  await assert.rejects(execs.startExec({ ...exec, containerId: 'nobody' }), (e) => codeOf(e) === 'CONTAINER_NOT_FOUND');
  const { bundle } = row;
  row.bundle = '/nonexistent/for/sure';
  await assert.rejects(execs.startExec(exec), (error) => codeOf(error) === 'NOT_READY');
  row.bundle = bundle;
  shim.state = 'dead';
  await assert.rejects(execs.waitExec(exec), (error) => codeOf(error) === 'SHIM_FAILED');
});

test('an exec that cannot be deleted is logged, and nobody waits for it', async () => {
  using lab = openJobLab();
  const { exec } = await running(lab);
  const execs = new Execs(lab.ctx);
  await execs.startExec(exec);
  lab.hooks.set('task.delete', new SluiceError('RUNTIME_FAILED', 'still there'));
  await execs.endExec(exec);
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(lab.lines.some(({ message }) => /exec could not be deleted/.test(message)));
});

test('execs of the streaming server are counted by how waiting for them ended', async () => {
  using lab = openJobLab();
  const { row, exec, shim } = await running(lab);
  const execs = new StreamedExecs(lab.ctx);
  shim.exit(row.id, 3);
  assert.equal(await execs.waitExec(exec), 3);
  lab.hooks.set('task.wait', new SluiceError('SHIM_FAILED', 'gone'));
  await assert.rejects(execs.waitExec(exec), /gone/);
  assert.deepEqual(
    lab.counted.filter((count) => count.startsWith('execs')),
    ['execs stream ok', 'execs stream error'],
  );
});
