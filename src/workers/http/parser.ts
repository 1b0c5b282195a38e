/**
 * undici's HTTP parser, which is WebAssembly, compiled before undici asks for it: as it is first compiled it stays. V8
 * has died of making it faster in one thread while another made its own. Options on the command line would say the
 * same for all of Node, but with them V8 refuses the code that Node and a release bring compiled: 40 to 100 ms more for
 * main and for each thread. V8 keeps one compiled form of the same bytes for all threads, and undici gets this one.
 */
import bytes from 'undici/lib/llhttp/llhttp_simd-wasm.js';
import { withV8Options } from '../../sys/v8-options.ts';
import { BUNDLED } from '../../version.ts';

/** The global object; TypeScript has it among the types for browsers alone. */
declare const WebAssembly: { readonly Module: new (bytes: Uint8Array) => object };

/** Of these, the first compilation reads the last: with it, functions are compiled when they are called. */
const SLOWER = { 'wasm-tier-up': false, 'wasm-dynamic-tiering': false, 'wasm-lazy-compilation': false };

const KEPT = Symbol('undici’s parser, compiled');

// The tree strips types in WebAssembly, too, and has the options on its command line (bin/sluiced).
if (BUNDLED) keepParser();

/**
 * Compiles the parser so that V8 leaves it alone, also in other threads, as long as this thread lives. V8 forgets the
 * compiled form with the last object that refers to it: this one belongs to the global object, since a variable that
 * nobody reads is garbage in a bundle, where it is that of a function.
 */
export function keepParser(): void {
  Object.defineProperty(globalThis, KEPT, { value: compileOnce(), configurable: true });
}

function compileOnce(): object {
  return withV8Options(SLOWER, () => new WebAssembly.Module(bytes));
}
