/** Which file of a source tree imports which: read from the text of the files, for the test of the layers. */
import { globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, resolve } from 'node:path';

export interface Import {
  /** Path of the importing file, from the root, with forward slashes. */
  from: string;
  /** Path of the imported file, from the root; or the name of a package or of a `node:` module. */
  to: string;
  line: number;
}

/**
 * The three ways by which a file names another one: `import`/`export … from` (of types too) and `import` for its effect
 * alone; `import(…)` in code and in types; `new URL(…, import.meta.url)`, by which worker threads are started. All with
 * a literal.
 */
const PATTERNS = [
  /^(?:import|export)\s(?:[^;'"`]*?\sfrom\s+)?['"]([^'"\n]+)['"]/gm,
  /\bimport\(\s*['"]([^'"\n]+)['"]\s*[,)]/g,
  /\bnew URL\(\s*['"]([^'"\n]+\.ts)['"]\s*,\s*import\.meta\.url\s*\)/g,
];

/**
 * A name that is put together at run time hides its arrow, but for `${name}.ts` in a fixed folder: that stands for all
 * files there.
 */
const TEMPLATE = /\bnew URL\(\s*`([^`$]+\/)\$\{\w+\}\.ts`\s*,\s*import\.meta\.url\s*\)/g;

/** Every import of every .ts file below `folders` of `root`. */
export function importsOf(root: string, folders: readonly string[]): Import[] {
  const files = folders.flatMap((folder) => globSync(`${folder}/**/*.ts`, { cwd: root })).sort();
  return files.flatMap((file) => importsIn(root, file, readFileSync(join(root, file), 'utf8')));
}

function importsIn(root: string, from: string, text: string): Import[] {
  const found: Import[] = [];
  const add = (at: number, target: string) =>
    found.push({ from, to: target, line: text.slice(0, at).split('\n').length });
  const inRoot = (target: string) => (target.startsWith('.') ? normalize(join(dirname(from), target)) : target);
  for (const pattern of PATTERNS) for (const match of text.matchAll(pattern)) add(match.index, inRoot(match[1] ?? ''));
  for (const match of text.matchAll(TEMPLATE)) {
    const folder = inRoot(match[1] ?? '');
    for (const name of globSync('*.ts', { cwd: resolve(root, folder) })) add(match.index, join(folder, name));
  }
  return found;
}

/**
 * The circles among files, each knot of files that reach each other reported once by its shortest circle: `a → b → a`.
 * `size` is the number of files in the knot. Worker entries that are named by URL count as imports: a thread that loads
 * its parent is a circle too.
 */
export function circles(imports: readonly Import[]): { path: string[]; size: number }[] {
  const next = new Map<string, Set<string>>();
  for (const { from, to } of imports) {
    if (!next.has(from)) next.set(from, new Set());
    if (to.endsWith('.ts')) next.get(from)?.add(to);
  }
  return knots(next).map((knot) => ({ path: shortestCircle(knot, next), size: knot.size }));
}

type Graph = ReadonlyMap<string, ReadonlySet<string>>;

/** Strongly connected components of more than one file, or of one that imports itself (Tarjan's algorithm). */
function knots(graph: Graph): Set<string>[] {
  const order = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const found: Set<string>[] = [];
  const visit = (file: string): number => {
    let lowest = order.size;
    order.set(file, lowest);
    const own = lowest;
    stack.push(file);
    for (const target of graph.get(file) ?? []) {
      if (!order.has(target)) lowest = Math.min(lowest, visit(target));
      else if (stack.includes(target)) lowest = Math.min(lowest, order.get(target) ?? lowest);
    }
    low.set(file, lowest);
    if (lowest === own) {
      const knot = new Set(stack.splice(stack.indexOf(file)));
      if (knot.size > 1 || graph.get(file)?.has(file)) found.push(knot);
    }
    return lowest;
  };
  for (const file of graph.keys()) if (!order.has(file)) visit(file);
  return found;
}

function shortestCircle(knot: ReadonlySet<string>, graph: Graph): string[] {
  let best: string[] = [];
  for (const start of knot) {
    const before = new Map<string, string>();
    const queue = [start];
    for (let file = queue.shift(); file !== undefined && !before.has(start); file = queue.shift()) {
      for (const target of graph.get(file) ?? []) {
        if (!knot.has(target) || before.has(target)) continue;
        before.set(target, file);
        queue.push(target);
      }
    }
    const path = [start];
    for (let file = before.get(start); file !== undefined && file !== start; file = before.get(file))
      path.unshift(file);
    path.unshift(start);
    if (best.length === 0 || path.length < best.length) best = path;
  }
  return best;
}
