/** undici has no types for its parts; each has those of the same name in its index. */
declare module 'undici/lib/dispatcher/agent.js' {
  export { Agent as default } from 'undici';
}
declare module 'undici/lib/dispatcher/dispatcher.js' {
  export { Dispatcher as default } from 'undici';
}
declare module 'undici/lib/dispatcher/pool.js' {
  export { Pool as default } from 'undici';
}
declare module 'undici/lib/dispatcher/proxy-agent.js' {
  export { ProxyAgent as default } from 'undici';
}
declare module 'undici/lib/api/index.js' {
  /** Methods of Dispatcher: request, stream and others. */
  const api: Record<string, unknown>;
  export default api;
}
declare module 'undici/lib/core/connect.js' {
  export { buildConnector as default } from 'undici';
}
declare module 'undici/lib/llhttp/llhttp_simd-wasm.js' {
  /** The parser as WebAssembly. */
  const bytes: Buffer<ArrayBuffer>;
  export default bytes;
}
