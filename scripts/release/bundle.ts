/**
 * The JavaScript of a release: daemon, command line tool and every worker thread, each bundled by esbuild into one
 * file.
 */
import { copyFileSync, cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { build, type Metafile, type Plugin } from 'esbuild';
import { WORKERS } from '../../src/node/threads/worker-entry.ts';

const ROOT = resolve(import.meta.dirname, '../..');

/** A bundle's import.meta, as far as the sources use it. */
const HEAD = `(function (exports, require, module, __filename, __dirname) {
"use strict";
const __url = require('node:url').pathToFileURL(__filename).href;`;

/** koffi looks for its library in node_modules, by the platform's name. In a release it is beside the bundle. */
const koffiBeside: Plugin = {
  name: 'koffi-beside',
  setup({ onLoad }) {
    onLoad({ filter: /koffi[/\\]src[/\\]static\.js$/ }, () => ({
      contents: `export const loadStatic = () => require('./koffi.node');`,
      loader: 'js',
    }));
  },
};

/**
 * What a module of CommonJS exports, imported as it is. esbuild makes a module of it, with a getter for each of its
 * properties: for the bytes of undici's parser, 53,000 of them, which were more than half of what a thread that has
 * undici did before its first work, and some MiB in its heap.
 */
const asItIs: Plugin = {
  name: 'as-it-is',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^undici\/lib\/llhttp\// }, ({ path, kind, resolveDir }) =>
      kind === 'import-statement' ? { path, namespace: 'as-it-is', pluginData: resolveDir } : undefined,
    );
    onLoad({ filter: /.*/, namespace: 'as-it-is' }, ({ path, pluginData }) => ({
      contents: `export default require(${JSON.stringify(path)});`,
      resolveDir: pluginData,
      loader: 'js',
    }));
  },
};

/** The programs of a release, by name. */
const ENTRIES: Record<string, string> = {
  sluiced: 'src/main/sluiced.ts',
  sluice: 'src/main/cli/sluice.ts',
  // piscina starts its threads with a file of this name, which then loads the pool's own.
  worker: 'node_modules/piscina/dist/worker.js',
  ...Object.fromEntries(WORKERS.map((name) => [`worker-${name}`, `src/workers/${name}.ts`])),
};

/**
 * Writes the programs to `folder`: NAME.js loads NAME.bundle.js (packaging/lib/load.js). That is a script, since Node
 * takes a code cache for scripts alone, and has all it needs in it. The result names every source
 * file in them. Throws when esbuild cannot resolve an import. Maps name the sources as seen from dist/sluice/lib,
 * wherever the folder is, so that the bytes do not depend on it.
 */
export async function bundle(folder: string, version: string): Promise<Metafile> {
  const { metafile, outputFiles } = await build({
    absWorkingDir: ROOT,
    preserveSymlinks: true, // packages are named as below node_modules, also where that is a link
    entryPoints: Object.fromEntries(Object.entries(ENTRIES).map(([name, file]) => [`${name}.bundle`, file])),
    outdir: 'dist/sluice/lib',
    write: false,
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node24',
    // What is imported on demand is in the same file, and not run before.
    supported: { 'dynamic-import': false },
    // V8 keeps the text of everything that it has loaded, in each thread anew. Names stay as they are, for stack
    // traces.
    minifyWhitespace: true,
    minifySyntax: true,
    lineLimit: 160,
    charset: 'ascii', // V8 keeps a source with any other letter at two bytes each; load.js reads it so, too
    legalComments: 'external', // NAME.js.LEGAL.txt beside NAME.js: notices that stand in sources alone
    sourcemap: 'linked',
    sourcesContent: false,
    metafile: true,
    define: { SLUICE_RELEASE: JSON.stringify(version), 'import.meta.url': '__url', 'import.meta.dirname': '__dirname' },
    banner: { js: HEAD },
    footer: { js: '})' },
    // piscina loads @napi-rs/nice only when it is asked to renice its threads, which src/sys/nice.ts does here.
    external: ['*.node', '@napi-rs/nice'],
    plugins: [koffiBeside, asItIs],
    logLevel: 'warning',
  });
  mkdirSync(folder, { recursive: true });
  cpSync(join(ROOT, 'src/node/observe/page'), join(folder, 'page'), { recursive: true });
  for (const { path, contents } of outputFiles) writeFileSync(join(folder, basename(path)), contents);
  for (const name of Object.keys(ENTRIES))
    writeFileSync(join(folder, `${name}.js`), `require('./load.js')(module, require, '${name}');\n`);
  copyFileSync(join(ROOT, 'packaging/lib/load.js'), join(folder, 'load.js'));
  // Without it Node looks for one in all folders above, and then at each text, to find out which kind it is.
  writeFileSync(join(folder, 'package.json'), '{"type":"commonjs"}\n');
  return metafile;
}
