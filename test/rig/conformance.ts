/**
 * critest against a Sluice (or a containerd) of its own, and the outcome of each spec beside what
 * docs/develop/conformance.md says.
 *
 *   npm run conformance -- [--focus REGEX] [--runtime runc-1.4|crun] [--shim PATH] [--containerd]
 *     [--vm] [--websocket] [--write]
 *
 *   --focus      only the specs that match; the others are not compared
 *   --runtime    the OCI runtime: runc from PATH (default), the runc-1.4 of the rig, or crun
 *   --shim       another shim than 2.3.4, a path or a name to find in PATH
 *   --containerd the same against containerd 2.3.4, for the columns to compare with
 *   --vm         in the workplace's VM (cgroup v2, systemd, AppArmor), where its script exists
 *   --websocket  exec, attach and port-forward over WebSocket instead of SPDY
 *   --write      put the outcome into docs/develop/conformance.md instead of comparing
 *
 * Ends with status 1 when a spec does worse than the page says.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { built, Unavailable } from './build.ts';
import { compare, type Outcome, parsePage, writePage } from './conformance-page.ts';
import { startContainerd } from './containerd.ts';
import { type RigDaemon, startSluice } from './daemon.ts';
import { imageRegistry } from './images.ts';
import { CACHE, findProgram, privateFolder, program, ROOT, SYSTEMD } from './paths.ts';
import { run } from './proc.ts';

const PAGE = join(ROOT, 'docs/develop/conformance.md');
const VM = '/work/shared/rig/vm';
/** What critest and the daemon printed, for each column of the page. */
const LOGS = join(CACHE, 'conformance');

interface SpecReport {
  ContainerHierarchyTexts: string[] | null;
  LeafNodeText: string;
  LeafNodeType: string;
  State: string;
  RunTime: number;
  Failure?: { Message?: string };
}

const { values: options } = parseArgs({
  options: {
    focus: { type: 'string' },
    runtime: { type: 'string', default: 'runc' },
    shim: { type: 'string' },
    containerd: { type: 'boolean', default: false },
    vm: { type: 'boolean', default: false },
    websocket: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    /** Internal, for the run inside the VM: where the outcome goes. */
    results: { type: 'string' },
  },
});

/** Column of the page: who, where, with what. */
function column(): string {
  const where = options.vm || SYSTEMD ? 'v2' : 'v1';
  const runtime = options.runtime === 'runc' ? '' : ` ${options.runtime}`;
  return `${options.containerd ? 'containerd' : 'sluice'} ${where}${runtime}${options.websocket ? ' ws' : ''}`;
}

async function startDaemon(folder: string, certs: Awaited<ReturnType<typeof imageRegistry>>): Promise<RigDaemon> {
  const runtime = options.runtime === 'runc-1.4' ? await built('runc-1.4') : program(options.runtime);
  const shim = options.shim ? program(options.shim) : await built('containerd-shim-runc-v2');
  if (options.containerd) {
    return startContainerd({
      registry: certs,
      containerd: await built('containerd'),
      shim,
      runc: runtime,
    });
  }
  return startSluice({
    registry: certs,
    config: {
      default_runtime: 'runc',
      runtimes: { runc: { binary: runtime, shim } },
      log: { level: 'info' },
    },
    env: { ...process.env, TMPDIR: folder },
  });
}

/** Runs critest; `undefined` specs were filtered away by --focus. */
async function critest(): Promise<Map<string, Outcome>> {
  const test = await built('critest');
  const folder = privateFolder('sluice-cri');
  const report = join(folder, 'report.json');
  const registry = await imageRegistry(folder);
  try {
    const daemon = await startDaemon(folder, registry);
    try {
      const args = ['-runtime-endpoint', `unix://${daemon.socket}`, '-image-endpoint', `unix://${daemon.socket}`];
      args.push('--ginkgo.no-color', '--ginkgo.succinct', `--ginkgo.json-report=${report}`);
      if (options.focus) args.push(`--ginkgo.focus=${options.focus}`);
      if (options.websocket) args.push('-websocket-exec', '-websocket-attach', '-websocket-portforward');
      const { stdout, stderr } = await run(test, args, { cwd: folder, check: false, timeoutMs: 90 * 60_000 });
      if (!existsSync(report)) throw new Error(`critest made no report: ${`${stdout}${stderr}`.slice(-3000)}`);
      // In the VM they go beside the results, and from there to the same place.
      const out = options.results ? dirname(options.results) : LOGS;
      mkdirSync(out, { recursive: true });
      const name = column().replaceAll(' ', '-');
      writeFileSync(join(out, `${name}.log`), stdout + stderr);
      writeFileSync(join(out, `${name}.daemon.log`), daemon.log());
      writeFileSync(join(out, `${name}.json`), readFileSync(report));
      return outcomes(report);
    } finally {
      await daemon[Symbol.asyncDispose]();
    }
  } finally {
    await registry.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

function outcomes(report: string): Map<string, Outcome> {
  const [suite] = JSON.parse(readFileSync(report, 'utf8')) as [{ SpecReports: SpecReport[] }];
  const found = new Map<string, Outcome>();
  for (const spec of suite.SpecReports) {
    if (spec.LeafNodeType !== 'It') continue;
    const [group = '', ...rest] = spec.ContainerHierarchyTexts ?? [];
    const name = [group.replace(/^\[k8s\.io\] /, ''), ...rest, spec.LeafNodeText].join(' > ');
    const words = (spec.Failure?.Message ?? '').replaceAll(/\s+/g, ' ').trim();
    if (spec.State === 'skipped' && words === '' && options.focus) continue;
    const state = spec.State === 'passed' ? 'pass' : /skipped|pending/.test(spec.State) ? 'skip' : 'fail';
    const unasked = state === 'skip' && words === '' && name.includes('benchmark');
    found.set(name, { state, why: unasked ? 'a benchmark: runs only when asked for by -benchmark' : words });
  }
  return found;
}

/** The same script inside the VM, with the checkout shared read-only. */
async function inVm(): Promise<Map<string, Outcome>> {
  const folder = privateFolder('sluice-vm');
  try {
    for (const name of ['critest', 'containerd', 'containerd-shim-runc-v2'] as const) await built(name);
    if (options.runtime === 'runc-1.4') await built('runc-1.4');
    await (await imageRegistry(folder)).stop();
    const args = ['test/rig/conformance.ts', '--results', '/out/results.json', '--runtime', options.runtime];
    if (options.focus) args.push('--focus', options.focus);
    if (options.shim) args.push('--shim', options.shim);
    if (options.containerd) args.push('--containerd');
    if (options.websocket) args.push('--websocket');
    const vm = ['run', '--share', `${ROOT}:/src:ro`, '--share', `${folder}:/out`, '--dir', '/src', '--mem', '4096'];
    // The checkout is read-only there, and without a cache each of the daemon's threads compiles everything again.
    vm.push('--env', 'NODE_COMPILE_CACHE=/var/cache/node');
    const { code, stdout, stderr } = await run(VM, [...vm, '--timeout', '7200', '--', 'node', ...args], {
      check: false,
      timeoutMs: 7_300_000,
    });
    const results = join(folder, 'results.json');
    if (!existsSync(results))
      throw new Error(`the VM gave no results (status ${code}): ${(stdout + stderr).slice(-3000)}`);
    cpSync(folder, LOGS, { recursive: true, filter: (path) => path === folder || path.includes('-v2') });
    return new Map(Object.entries(JSON.parse(readFileSync(results, 'utf8')) as Record<string, Outcome>));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function main(): Promise<number> {
  if (options.vm && !existsSync(VM)) {
    console.log(`skipped: there is no ${VM} here`);
    return 0;
  }
  if (!options.vm && process.getuid?.() !== 0) {
    console.log('skipped: critest starts a daemon, and that needs root');
    return 0;
  }
  if (findProgram('docker-registry') === undefined)
    throw new Error('docker-registry is missing: npm run setup -- --test');
  const began = performance.now();
  const found = options.vm ? await inVm() : await critest();
  if (options.results) {
    writeFileSync(options.results, JSON.stringify(Object.fromEntries(found)));
    return 0;
  }
  const count = (state: string) => [...found.values()].filter((outcome) => outcome.state === state).length;
  const minutes = ((performance.now() - began) / 60_000).toFixed(1);
  console.log(
    `${column()}: ${found.size} specs: ${count('pass')} passed, ${count('fail')} failed, ${count('skip')} skipped (${minutes} min)`,
  );
  for (const [name, { state, why }] of found)
    if (state === 'fail') console.log(`  fail: ${name}\n        ${why.slice(0, 400)}`);

  const page = parsePage(existsSync(PAGE) ? readFileSync(PAGE, 'utf8') : '');
  if (options.write) {
    writePage(PAGE, page, column(), found);
    console.log('written to docs/develop/conformance.md');
    return 0;
  }
  const { worse, other } = compare(page, column(), found);
  for (const line of other) console.log(`  differs: ${line}`);
  for (const line of worse) console.log(`  WORSE: ${line}`);
  if (worse.length === 0) console.log('as docs/develop/conformance.md says, or better');
  return worse.length > 0 ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof Unavailable)) throw error;
  console.log(`skipped: ${error.message}`);
}
