// Runs NAME.bundle.js with its V8 code cache, NAME.cache. Where V8 rejects the cache (Node was started with other V8
// options) or the cache belongs to another text, the text is compiled as usual; nothing is written.
const { readFileSync } = require('node:fs');
const { Script } = require('node:vm');

/** Characters at the end of the text, and at the beginning of the cache, that are the same for those two alone. */
const ID = 64;

module.exports = (module, require, name) => {
  const filename = `${__dirname}/${name}.bundle.js`;
  const text = readFileSync(filename, 'latin1');
  const program = new Script(text, { filename, cachedData: cacheOf(name, text.slice(-ID)) });
  program.runInThisContext()(module.exports, require, module, filename, __dirname);
};

function cacheOf(name, id) {
  let cache;
  try {
    cache = readFileSync(`${__dirname}/${name}.cache`);
  } catch {
    return undefined; // it runs without one
  }
  return cache.toString('latin1', 0, ID) === id ? cache.subarray(ID) : undefined;
}
