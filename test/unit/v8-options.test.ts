import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { garbageCollector, withV8Options } from '../../src/sys/v8-options.ts';

const MODULE = new URL('../../src/sys/v8-options.ts', import.meta.url).href;

/** Runs `script` in a thread that has the module's functions, and gives what it posts. */
async function inThread(script: string): Promise<unknown> {
  const source = `
    const { parentPort } = require('node:worker_threads');
    import(${JSON.stringify(MODULE)}).then(({ garbageCollector, withV8Options }) => { ${script} });
  `;
  const worker = new Worker(source, { eval: true });
  const [answer] = await once(worker, 'message');
  await worker.terminate();
  return answer;
}

test('threads that ask for the collector at the same time all get it', async () => {
  const script = `
    let got = 0;
    for (let i = 0; i < 300; i++) if (typeof garbageCollector() === 'function') got++;
    parentPort.postMessage(got);
  `;
  assert.deepEqual(await Promise.all([1, 2, 3, 4].map(() => inThread(script))), [300, 300, 300, 300]);
});

test('the collector collects, and new contexts do not have it', async () => {
  const collect = garbageCollector();
  const before = new WeakRef({});
  await new Promise((resolve) => setImmediate(resolve)); // a reference lasts as long as the turn that has made it
  collect({ type: 'major', execution: 'sync' });
  assert.equal(before.deref(), undefined);
  const has = "require('node:vm').runInNewContext('typeof gc')";
  assert.equal(await inThread(`parentPort.postMessage(${has})`), 'undefined');
});

test('options are what was asked for, then the contrary, also after an error', () => {
  const typeOfGc = () => runInNewContext('typeof gc') as string;
  assert.equal(withV8Options({ 'expose-gc': true }, typeOfGc), 'function');
  assert.equal(typeOfGc(), 'undefined');
  const fails = () => {
    throw new Error('inside');
  };
  assert.throws(() => withV8Options({ 'expose-gc': true }, fails), /^Error: inside$/);
  assert.equal(typeOfGc(), 'undefined');
});

test('a thread that was ended inside does not stop others for ever', async () => {
  await inThread("withV8Options({ 'expose-gc': true }, () => { parentPort.postMessage('in'); for (;;); })");
  assert.equal(typeof garbageCollector(), 'function');
});
