/**
 * Runs the tests: unit tests side by side; integration and fault tests that mostly wait two files at a time; then the
 * others one file at a time, which time what they do or look at the whole machine.
 *
 *   npm test [-- PART|FILE...]      parts: unit, integration, faults; everything when none is given
 *
 * One report for all, with the slowest files and node:test's own closing lines; status 1 when a test failed. Ends
 * itself after an hour: a quiet machine with two cores takes some fifteen minutes, a busy one twice that.
 */
import { globSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { relative, resolve } from 'node:path';
import { finished } from 'node:stream/promises';
import { run } from 'node:test';
import { spec as Spec } from 'node:test/reporters';
import { leaveAsFound } from '../test/rig/as-found.ts';

const PARTS = ['unit', 'integration', 'faults'] as const;
const TIME_LIMIT_MS = 60 * 60_000;
const FILE_LIMIT_MS = 5 * 60_000;
/** How many files that mostly wait run at a time: they keep two cores half busy. */
const AT_ONCE = 2;

const root = resolve(import.meta.dirname, '..');
const wanted = process.argv.slice(2);
const parts = new Set<string>(wanted.filter((word) => PARTS.some((part) => part === word)));
const files = wanted.filter((word) => !parts.has(word));
for (const file of files)
  if (!file.endsWith('.ts')) throw new Error(`no such part or file: ${file} (parts: ${PARTS.join(', ')})`);
if (wanted.length === 0) for (const part of PARTS) parts.add(part);

/**
 * Files that wait for time limits, retries and builds for most of their time, keep to folders, networks and cgroups of
 * their own, and judge nothing by how long it took, but for limits of seconds; the longest first.
 */
const MOSTLY_WAITING = [
  'faults/store-disk',
  'integration/package',
  'faults/claim',
  'integration/package-install',
  'integration/snapshotters',
  'faults/shim',
  'faults/containers',
  'faults/store-rebuild',
  'integration/compile-workers',
  'integration/image-bad-input',
  'faults/shared-shim',
  'integration/release',
  'faults/images',
  'integration/cni-folder-hung',
  'integration/service',
  'integration/container-restart',
  'faults/container-start',
  'integration/images',
  'integration/container-userns',
  'integration/spawn-hung',
  'faults/disk',
  'faults/input',
  'faults/hung-config',
  'faults/crash',
  'faults/exposed',
  'faults/power-cut',
  'integration/stdio-hung-log',
  'integration/cli',
  'integration/container-life',
  'integration/demo',
  'integration/container-resources',
  'integration/image-archive',
  'integration/image-registries',
  'integration/image-real-registries',
  'integration/image-tls',
  'integration/shim-direct',
  'integration/shim-start',
  'integration/streaming-crictl',
].map((name) => resolve(root, `test/${name}.test.ts`));

const find = (part: string) =>
  parts.has(part)
    ? globSync(`test/${part}/**/*.test.ts`, { cwd: root })
        .map((file) => resolve(root, file))
        .sort()
    : [];
const withDaemons = [...find('integration'), ...find('faults'), ...files.map((file) => resolve(file))];
const groups = [
  { files: find('unit'), concurrency: availableParallelism() },
  { files: MOSTLY_WAITING.filter((file) => withDaemons.includes(file)), concurrency: AT_ONCE },
  { files: withDaemons.filter((file) => !MOSTLY_WAITING.includes(file)), concurrency: 1 },
].filter((group) => group.files.length > 0);
if (groups.length === 0) throw new Error(`no tests in ${[...parts].join(', ')}`);

/**
 * The files share most of what they import: the first that reads a module keeps it, without its types and compiled.
 * Not by NODE_COMPILE_CACHE, which daemons would inherit: V8 takes nothing from a cache that other flags have made, so
 * that they and the tests would write it anew for each other.
 */
const KEEP = `import { enableCompileCache } from 'node:module'; enableCompileCache(${JSON.stringify(resolve(root, '.cache/compiled-tests'))});`;
const PRELOAD = `data:text/javascript,${encodeURIComponent(KEEP)}`;

const limit = AbortSignal.timeout(TIME_LIMIT_MS);
const report = new Spec();
report.pipe(process.stdout);

/** Milliseconds that the tests of each file took. */
const taken = new Map<string, number>();
const SLOWEST = 10;

/** The counts that each run ends with, summed, so that the report has one set of closing lines. */
const totals = new Map<string, number>();
const CLOSING = /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) ([\d.]+)$/;

const found = await leaveAsFound();
for (const group of groups) {
  const events = run({
    files: group.files,
    concurrency: group.concurrency,
    timeout: FILE_LIMIT_MS,
    signal: limit,
    execArgv: ['--disable-warning=ExperimentalWarning', `--import=${PRELOAD}`],
  });
  for await (const event of events) {
    if (event.type === 'test:summary') continue;
    if ((event.type === 'test:pass' || event.type === 'test:fail') && event.data.nesting === 0) {
      const file = relative(root, event.data.file ?? '');
      taken.set(file, (taken.get(file) ?? 0) + event.data.details.duration_ms);
    }
    const closing =
      event.type === 'test:diagnostic' && event.data.nesting === 0 ? CLOSING.exec(event.data.message) : undefined;
    if (closing) totals.set(closing[1] ?? '', (totals.get(closing[1] ?? '') ?? 0) + Number(closing[2]));
    else report.write(event);
  }
}
const say = (message: string) =>
  report.write({ type: 'test:diagnostic', data: { nesting: 0, message, level: 'info' } });
const slowest = [...taken].sort(([, a], [, b]) => b - a).slice(0, SLOWEST);
for (const [file, ms] of slowest) say(`${(ms / 1000).toFixed(1)} s in ${file}`);
for (const [name, total] of totals) say(`${name} ${total}`);
report.end();
await finished(report);
await found[Symbol.asyncDispose]();
if (limit.aborted) console.error(`the tests took longer than ${TIME_LIMIT_MS / 60_000} minutes and were ended`);
process.exitCode = limit.aborted || (totals.get('fail') ?? 1) > 0 || (totals.get('cancelled') ?? 1) > 0 ? 1 : 0;
