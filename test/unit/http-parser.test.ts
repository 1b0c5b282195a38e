/** undici's parser in a release: V8 compiles it once for all threads, and does not make it faster later. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../rig/proc.ts';

/** Parses answers until V8 has long seen that it is worth while, and says which compiler the function is of. */
const PROGRAM = `
import bytes from 'undici/lib/llhttp/llhttp_simd-wasm.js';
import { cachedDataVersionTag } from 'node:v8';
import { shrinkHeap } from './src/sys/memory.ts';
import { keepingWebAssembly } from './src/sys/v8-options.ts';
import { keepParser } from './src/workers/http/parser.ts';
const before = cachedDataVersionTag();
if (process.env.KEPT) keepParser();
await keepingWebAssembly(shrinkHeap); // nobody but keepParser refers to it
const names = ['url', 'status', 'message_begin', 'header_field', 'header_value', 'headers_complete', 'body', 'message_complete'];
const env = Object.fromEntries(names.map((name) => ['wasm_on_' + name, () => 0]));
const parser = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env }).exports;
const answer = Buffer.from('HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello');
const at = parser.malloc(answer.length);
new Uint8Array(parser.memory.buffer).set(answer, at);
const state = parser.llhttp_alloc(2);
parser.llhttp_execute(state, at, answer.length);
if (process.env.KEPT) await keepingWebAssembly(shrinkHeap); // which the daemon does when it has nothing to do
const until = performance.now() + (process.env.KEPT ? 2000 : 30_000);
const faster = () => %IsTurboFanFunction(parser.llhttp_execute);
for (let i = 0; i < 100_000; i++) parser.llhttp_execute(state, at, answer.length);
while (!faster() && performance.now() < until) {
  parser.llhttp_execute(state, at, answer.length);
  await new Promise(setImmediate);
}
console.log(JSON.stringify({ faster: faster(), sameOptions: cachedDataVersionTag() === before }));
`;

const parse = async (env: NodeJS.ProcessEnv) => {
  const args = [
    '--allow-natives-syntax',
    '--disable-warning=ExperimentalWarning',
    '--input-type=module',
    '-e',
    PROGRAM,
  ];
  const { stdout } = await run(process.execPath, args, { env: { ...process.env, ...env } });
  return JSON.parse(stdout) as unknown;
};

test('V8 makes the parser faster by itself, and not once it was compiled for good', async () => {
  assert.deepEqual(await parse({ KEPT: '' }), { faster: true, sameOptions: true });
  assert.deepEqual(await parse({ KEPT: 'yes' }), { faster: false, sameOptions: true });
});
