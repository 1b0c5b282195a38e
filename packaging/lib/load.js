// Runs NAME.bundle.js, of which every function is in NAME.cache already compiled. A cache that V8 refuses (started with
// other V8 options) or that belongs to another text costs the time to compile, and is not written anew.
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
