/**
 * The JavaScript of a release: daemon, command line tool and every worker thread, bundled by esbuild into one folder.
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { build, type Metafile, type Plugin } from 'esbuild';
import { WORKERS } from '../../src/node/threads/worker-entry.ts';

const ROOT = resolve(import.meta.dirname, '../..');

/**
 * CommonJS packages are in the bundle, which is made of ES modules: they find Node's own modules with `require`, and
 * piscina finds its worker.js beside itself with `__dirname`.
 */
const BANNER = `import { createRequire as __createRequire } from 'node:module';
const require = __createRequire(import.meta.url), __filename = import.meta.filename, __dirname = import.meta.dirname;`;

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
 * Writes the bundle to `folder`; the result names every source file in it. Throws when esbuild cannot resolve an
 * import. Maps name the sources as seen from dist/sluice/lib, wherever the folder is, so that the bytes do not depend
 * on it.
 */
export async function bundle(folder: string, version: string): Promise<Metafile> {
  const { metafile, outputFiles } = await build({
    absWorkingDir: ROOT,
    preserveSymlinks: true, // packages are named as below node_modules, also where that is a link
    entryPoints: {
      sluiced: 'src/main/sluiced.ts',
      sluice: 'src/main/cli/sluice.ts',
      // piscina starts its threads with a file of this name, which then loads the pool's own.
      worker: 'node_modules/piscina/dist/worker.js',
      ...Object.fromEntries(WORKERS.map((name) => [`worker-${name}`, `src/workers/${name}.ts`])),
    },
    outdir: 'dist/sluice/lib',
    write: false,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node24',
    // V8 keeps the text of everything that it has loaded, in each thread anew. Names stay as they are, for stack
    // traces.
    minifyWhitespace: true,
    minifySyntax: true,
    lineLimit: 160,
    charset: 'ascii', // V8 keeps a source with any other letter at two bytes each
    legalComments: 'external', // NAME.js.LEGAL.txt beside NAME.js: notices that stand in sources alone
    sourcemap: 'linked',
    sourcesContent: false,
    metafile: true,
    define: { SLUICE_RELEASE: JSON.stringify(version) },
    banner: { js: BANNER },
    // piscina loads @napi-rs/nice only when it is asked to renice its threads, which src/sys/nice.ts does here.
    external: ['*.node', '@napi-rs/nice'],
    plugins: [koffiBeside],
    logLevel: 'warning',
  });
  mkdirSync(folder, { recursive: true });
  cpSync(join(ROOT, 'src/node/observe/page'), join(folder, 'page'), { recursive: true });
  for (const { path, contents } of outputFiles) writeFileSync(join(folder, basename(path)), contents);
  return metafile;
}
