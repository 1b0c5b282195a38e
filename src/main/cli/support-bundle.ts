import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { explain } from '../../errors.ts';
import { readSources } from '../../node/config/layers.ts';
import { redact, redactText } from '../../node/observe/redact.ts';
import { VERSION } from '../../version.ts';
import { criClient, DebugClient } from './client.ts';
import { type Call, type Command, EXIT, optionText, printJson } from './command.ts';
import { type TarEntry, tar } from './tar.ts';

const run = promisify(execFile);
/** Nobody waits for a program that does not end by itself; SIGKILL, since it may pass over another signal. */
const COMMAND_LIMIT = { timeout: 30_000, killSignal: 'SIGKILL', maxBuffer: 256 << 20 } as const;
const LOG_LINES = 20_000;

/** A file of the bundle and how its text is got; what throws becomes NAME.error.txt. */
interface Part {
  name: string;
  about: string;
  read(call: Call): Promise<string> | string;
}

const program =
  (path: string, ...args: string[]) =>
  async () => {
    const { stdout, stderr } = await run(path, args, COMMAND_LIMIT);
    return stdout + stderr;
  };
const debug = (path: string) => (call: Call) => new DebugClient(call).text(path);
/** Objects are redacted by their keys, then their text. */
const pretty = (value: unknown) =>
  JSON.stringify(redact(value), (_key, one) => (typeof one === 'bigint' ? String(one) : one), 2);
const cri = (ask: (client: Awaited<ReturnType<typeof criClient>>) => Promise<unknown>) => async (call: Call) => {
  using client = await criClient(call);
  return pretty(await ask(client));
};

const PARTS: readonly Part[] = [
  { name: 'config.txt', about: 'the configuration files', read: (call) => configFiles(optionText(call, 'config')) },
  {
    name: 'log.txt',
    about: `the last ${LOG_LINES} lines of the journal`,
    read: program('journalctl', '-u', 'sluiced', '-n', String(LOG_LINES), '--no-pager', '-o', 'short-iso-precise'),
  },
  { name: 'unit.txt', about: 'the unit’s state', read: program('systemctl', 'show', 'sluiced.service', '--no-pager') },
  { name: 'metrics.txt', about: 'all metrics', read: debug('/metrics') },
  { name: 'now.json', about: 'stages, jobs and pools at this moment', read: debug('/debug/now') },
  { name: 'launches.json', about: 'the launches that are remembered, stage by stage', read: debug('/debug/launches') },
  { name: 'memory.json', about: 'memory of the daemon', read: debug('/debug/memory') },
  { name: 'status.json', about: 'what the kubelet is told', read: cri((client) => client.status({ verbose: true })) },
  { name: 'pods.json', about: 'pods', read: cri((client) => client.listPodSandbox()) },
  { name: 'containers.json', about: 'containers', read: cri((client) => client.listContainers()) },
  { name: 'images.json', about: 'images', read: cri((client) => client.listImages()) },
  {
    name: 'doctor.json',
    about: 'sluice doctor',
    read(call) {
      const config = optionText(call, 'config');
      return ownCommand('doctor', '--json', ...(config === undefined ? [] : ['--config', config]));
    },
  },
  { name: 'machine.txt', about: 'kernel, distribution, cgroups', read: machine },
  { name: 'mounts.txt', about: 'mounts of the daemon', read: () => readFileSync('/proc/self/mountinfo', 'utf8') },
  { name: 'runc.txt', about: 'version of runc', read: program('runc', '--version') },
  { name: 'shim.txt', about: 'version of the shim', read: program('containerd-shim-runc-v2', '-v') },
  { name: 'links.txt', about: 'network links', read: program('ip', '-d', 'address') },
];

export const SUPPORT_BUNDLE: Command = {
  name: 'support-bundle',
  summary: 'write what a report of a problem needs into one file',
  description:
    'A tar archive with configuration, log, metrics, launches, pods and the machine. Passwords, tokens, and values of variables that are named like secrets are cut out; names of pods and images stay. Look into it before you send it.',
  options: [
    { flags: '-o, --output <file>', description: 'the file (default: sluice-HOST-TIME.tar.gz here)', complete: 'file' },
  ],
  peers: ['cri', 'metrics'],
  json: true,
  async run(call) {
    const stamp = new Date().toISOString().replace(/[-:]|\.\d+/g, '');
    const name = `sluice-${hostname()}-${stamp}`;
    const file = optionText(call, 'output') ?? `${name}.tar.gz`;
    const progress = process.stderr.isTTY ? process.stderr : undefined;
    const entries: TarEntry[] = [{ name: `${name}/version.txt`, data: Buffer.from(`sluice ${VERSION}\n`) }];
    const failed: string[] = [];
    for (const [at, part] of PARTS.entries()) {
      progress?.write(`\r\x1b[K${at + 1}/${PARTS.length} ${part.about}`);
      try {
        entries.push({ name: `${name}/${part.name}`, data: Buffer.from(redactText(await part.read(call))) });
      } catch (error) {
        failed.push(part.name);
        entries.push({ name: `${name}/${part.name}.error.txt`, data: Buffer.from(`${redactText(explain(error))}\n`) });
      }
    }
    progress?.write('\r\x1b[K');
    writeFileSync(file, gzipSync(tar(entries, Math.floor(Date.now() / 1000))), { mode: 0o600 });
    if (call.options.json) printJson(call.out, { file, files: entries.map((entry) => entry.name), failed });
    else {
      call.out.write(`${file}\n`);
      if (failed.length > 0) process.stderr.write(`sluice: without ${failed.join(', ')} (the bundle says why)\n`);
    }
    return EXIT.ok.status;
  },
};

function configFiles(path: string | undefined): string {
  const sources = readSources(path);
  if (sources.length === 0) return '# no file: everything is at its default\n';
  return sources.map(({ file, text }) => `# ---- ${file}\n${text}`).join('\n');
}

function machine(): string {
  const files = [
    '/etc/os-release',
    '/proc/version',
    '/proc/cmdline',
    '/proc/meminfo',
    '/proc/loadavg',
    '/proc/self/cgroup',
    '/sys/fs/cgroup/cgroup.controllers',
  ];
  return files
    .map((file) => {
      try {
        return `# ---- ${file}\n${readFileSync(file, 'utf8')}`;
      } catch (error) {
        return `# ---- ${file}: ${(error as Error).message}\n`;
      }
    })
    .join('\n');
}

/** What another command of this program prints, whatever its status: doctor ends with 1 where it finds something. */
async function ownCommand(...args: string[]): Promise<string> {
  const argv = [...process.execArgv, process.argv[1] ?? '', ...args];
  try {
    return (await run(process.execPath, argv, COMMAND_LIMIT)).stdout;
  } catch (error) {
    const { stdout } = error as { stdout?: string };
    if (!stdout) throw error;
    return stdout;
  }
}
