/**
 * Does what the guides under docs/operate say, word for word, on the machine that this runs on: a throw-away root or a
 * VM. Files go where their first line says, commands are typed in the order of the page; what a page wrote into the
 * configuration is taken back before the next one begins.
 *
 *   node test/rig/guide-scenario.ts [PAGE.md...] FOLDER      the packages of this version and of 0.2.0
 *
 * With pages it does those alone, in pieces that an emulated machine does before somebody's patience ends: installs the
 * package, does them, and, where install.md is among them, also what stands in running text, the upgrade and the
 * removal.
 *
 * Where systemd is not PID 1 the daemon is started by hand and does what `systemctl` is told about it; the other lines
 * for systemd are left to the VM (test/rig/vm/package.ts --guides), and said. Prints a line for each command that was
 * run, goes on after one that fails, and ends with status 1 then.
 */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import { createServer, type Server } from 'node:https';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Cri, connectCri } from './cri.ts';
import { blocksOf, fileOf, GUIDES, type GuideBlock, TYPED, tableCommands } from './guides.ts';
import { imageRegistry } from './images.ts';
import { containerConfig, imageSpec, podConfig } from './messages.ts';
import { BIN, privateFolder, SYSTEMD } from './paths.ts';
import { run, type Started, start, waitFor } from './proc.ts';
import { patientWatchdog } from './watchdog.ts';

const packages = process.argv.at(-1) ?? '';
const only = process.argv.slice(2, -1);
for (const page of only) assert.ok(GUIDES.includes(page), `${page} is no page that people have written`);
/** Whether a page is to be done. */
const wanted = (page: string) => only.length === 0 || only.includes(page);
const SOCKET = '/run/sluice/sluice.sock';
const CONF = '/etc/sluice/conf.d';
const LOG = '/var/log/sluiced.log';
const IMAGE = 'docker.io/library/busybox:latest';
/** A VM is stopped for minutes while somebody measures, and its clock goes on. */
const PATIENCE_MS = SYSTEMD ? 3_600_000 : 120_000;
/** Milliseconds that a command which goes on until Ctrl-C is left to run. */
const FOLLOW_MS = 3000;
/** What stands for something of the reader's own. */
const OWN: Record<string, string> = { POD: 'default/hello', '<pod>': 'default/hello', IMAGE, LEVEL: 'info' };
const CERTS = '/etc/containerd/certs.d';

const folder = privateFolder('sluice-guides');
mkdirSync(join(folder, 'bin'));
symlinkSync(join(BIN, 'crictl'), join(folder, 'bin/crictl'));
const env = {
  PATH: `/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${folder}/bin`,
  HOME: '/root',
  DEBIAN_FRONTEND: 'noninteractive',
  LANG: 'C.UTF-8',
};

let daemon: Started | undefined;
const done = new Set<string>();
const left: string[] = [];
const failures: string[] = [];
const nameOf = ({ page, line }: GuideBlock) => `${page}:${line}`;

// ---- One command after the other

/** What is said where the machine is emulated, or was stopped meanwhile, and not a few seconds later. */
const SLOW =
  /connection timed out|ha(s|ve) not answered (STATUS )?(within|in time)|DEADLINE_EXCEEDED|DeadlineExceeded/i;

/** Types lines into a shell, and says what was run. */
async function type(text: string, where: string, tries = 10): Promise<void> {
  const lines = text.trimEnd();
  if (lines === '') return;
  const shell = ['--norc', '-eu', '-c', lines];
  const { code, stdout, stderr } = await run('bash', shell, {
    cwd: packages,
    env,
    check: false,
    input: 'y\n'.repeat(8), // apt asks
    timeoutMs: PATIENCE_MS,
  });
  if (code !== 0 && SYSTEMD && SLOW.test(stdout + stderr) && tries > 1) {
    await sleep(5000);
    return type(text, where, tries - 1);
  }
  assert.equal(code, 0, `${where}: status ${code} of\n${lines}\n${stdout}${stderr}`);
  console.log(`run: ${where}: ${lines.replaceAll('\n', ' ⏎ ')}`);
}

/** A command that goes on until Ctrl-C: it must still run after a while. */
async function follow(line: string, where: string): Promise<void> {
  const seconds = String(FOLLOW_MS / 1000);
  const { code, stderr } = await run('timeout', [seconds, 'bash', '-c', line], { cwd: packages, env, check: false });
  assert.equal(code, 124, `${where}: ${line} ended by itself: ${stderr}`);
  console.log(`run: ${where}: ${line} (for ${seconds} s)`);
}

const FOR_SYSTEMD = /^(systemctl|journalctl|systemd-analyze)\b/;

async function typeBlock(text: string, where: string): Promise<void> {
  let together: string[] = [];
  const flush = async () => {
    await type(together.join('\n'), where);
    together = [];
  };
  let heredoc = '';
  for (const bare of text.trimEnd().split('\n')) {
    const line = bare.replaceAll(/\b(?:POD|IMAGE|LEVEL)\b|<pod>/g, (word) => OWN[word] ?? word).replace(/\s+# .*$/, '');
    if (heredoc === '') heredoc = /<<(\w+)$/.exec(line)?.[1] ?? '';
    else if (line === heredoc) heredoc = '';
    if (heredoc === '' && FOR_SYSTEMD.test(line) && !SYSTEMD) {
      await flush();
      await forSystemd(line, where);
    } else if (/ -f$/.test(line)) {
      await flush();
      await follow(line, where);
    } else if (/^apt /.test(line)) {
      await flush();
      await type(line, where); // it reads all of the answers, so the next one gets its own
    } else together.push(line);
  }
  await flush();
}

/** What systemd would do, as far as the daemon is concerned. */
async function forSystemd(line: string, where: string): Promise<void> {
  if (/^systemctl (restart|enable --now|start) (sluiced\.socket )?sluiced$/.test(line)) await restart();
  else if (/^systemctl stop sluiced$/.test(line)) await daemon?.stop(120_000);
  else if (/^systemctl reload sluiced$/.test(line)) await reload();
  left.push(`${where}: ${line}`);
}

async function serving(): Promise<void> {
  await waitFor('the daemon to answer', PATIENCE_MS, async () => {
    using cri = connectCri(SOCKET);
    return await cri.version({}, { timeoutMs: 10_000 });
  });
}

async function restart(): Promise<void> {
  if (SYSTEMD) await type('systemctl restart sluiced', 'the rig');
  else {
    await daemon?.stop(120_000);
    daemon = start('/usr/sbin/sluiced', [], LOG, { PATH: env.PATH });
  }
  await serving();
}

async function reload(): Promise<void> {
  const count = () => readFileSync(LOG, 'utf8').match(/"configuration reloaded"/g)?.length ?? 0;
  const before = count();
  process.kill(daemon?.pid ?? 0, 'SIGHUP');
  await waitFor('the reload', PATIENCE_MS, () => count() > before || undefined);
}

/** The rest of the guides is looked at even so. */
async function trying(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    console.log(`FAILED: ${words}`);
    failures.push(words);
  }
}

// ---- Pages

async function doBlock(block: GuideBlock): Promise<void> {
  const { kind, text, mark } = block;
  done.add(nameOf(block));
  if (mark && mark.kind !== (SYSTEMD ? 'only in the VM' : 'not in the VM')) {
    console.log(`${mark.kind}: ${nameOf(block)}: ${mark.reason}`);
    return;
  }
  const file = fileOf(block);
  if (kind === 'toml' && file) {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
    console.log(`written: ${nameOf(block)}: ${file}`);
  } else if (kind === 'sh') await trying(() => typeBlock(text, nameOf(block)));
}

async function doSection(page: string, heading: string): Promise<void> {
  const found = blocksOf(page).filter((block) => block.heading === heading);
  assert.ok(found.length > 0, `${page} has no section "${heading}" with a block`);
  for (const block of found) await doBlock(block);
}

/** A page from top to bottom, but for what was done before; then everything is as it was. */
async function doPage(page: string): Promise<void> {
  using cri = connectCri(SOCKET);
  const away = await launchHello(cri); // what a daemon remembers of a launch goes with it, so each page has its own
  for (const block of blocksOf(page)) if (!done.has(nameOf(block))) await doBlock(block);
  if (page === 'troubleshooting.md') {
    for (const command of tableCommands(page)) {
      await trying(() => typeBlock(command, `${page}: table`));
    }
  }
  await trying(away);
  for (const file of globSync(`${CONF}/*.toml`)) if (file !== REGISTRY) rmSync(file);
  await restart();
}

// ---- What the guides take for granted: a registry, archives, a pod

const REGISTRY = join(CONF, '00-rig.toml');
const registry = await imageRegistry(folder);

/** The mirror of the page on air-gapped nodes, with its authority; the registry of the rig is behind it. */
async function insideMirror(): Promise<Server> {
  const at = (name: string) => join(folder, name);
  const openssl = (...words: string[]) => run('openssl', words, { cwd: folder });
  const days = ['-days', '2', '-nodes', '-newkey', 'rsa:2048'];
  await openssl('req', '-x509', ...days, '-keyout', 'ca.key', '-out', '/etc/ssl/inside-ca.pem', '-subj', '/CN=inside');
  await openssl(
    'req',
    ...days.slice(2),
    '-keyout',
    'key.pem',
    '-out',
    'csr.pem',
    '-subj',
    '/CN=registry.inside.example',
  );
  writeFileSync(at('san'), 'subjectAltName=DNS:registry.inside.example\n');
  const sign = ['-req', '-in', 'csr.pem', '-CA', '/etc/ssl/inside-ca.pem', '-CAkey', 'ca.key', '-CAcreateserial'];
  await openssl('x509', ...sign, '-days', '2', '-extfile', 'san', '-out', 'cert.pem');
  appendFileSync('/etc/hosts', '127.0.0.1 registry.inside.example\n');
  const [host, port] = registry.address.split(':');
  const server = createServer(
    { key: readFileSync(at('key.pem')), cert: readFileSync(at('cert.pem')) },
    (question, answer) => {
      const { method, url: path, headers } = question;
      request({ host, port, method, path, headers }, (real) => {
        answer.writeHead(real.statusCode ?? 502, real.headers);
        real.pipe(answer);
      })
        .on('error', () => answer.destroy())
        .end();
    },
  );
  await new Promise<void>((resolve) => server.listen(5000, '127.0.0.1', resolve));
  return server;
}

/** A pod default/hello with a container, as `kubectl run` makes it. */
async function launchHello(cri: Cri): Promise<() => Promise<void>> {
  const { image } = await cri.imageStatus({ image: imageSpec(IMAGE) }, { timeoutMs: PATIENCE_MS });
  if (!image) await cri.pullImage({ image: imageSpec(IMAGE) }, { timeoutMs: PATIENCE_MS });
  const logs = join(folder, 'logs');
  mkdirSync(logs, { recursive: true });
  const config = podConfig('hello', {
    namespace: 'default',
    logDirectory: logs,
    cgroupParent: SYSTEMD ? 'sluiceguides.slice' : '/sluiceguides',
  });
  const { podSandboxId } = await cri.runPodSandbox({ config }, { timeoutMs: PATIENCE_MS });
  const container = containerConfig('hello', IMAGE, ['sh', '-c', 'echo hello; exec sleep 3600'], { logPath: '0.log' });
  const { containerId } = await cri.createContainer(
    { podSandboxId, config: container, sandboxConfig: config },
    { timeoutMs: PATIENCE_MS },
  );
  await cri.startContainer({ containerId }, { timeoutMs: PATIENCE_MS });
  return async () => {
    await cri.stopPodSandbox({ podSandboxId }, { timeoutMs: PATIENCE_MS });
    await cri.removePodSandbox({ podSandboxId }, { timeoutMs: PATIENCE_MS });
  };
}

async function useRegistry(): Promise<void> {
  mkdirSync(CONF, { recursive: true });
  writeFileSync(REGISTRY, `[images]\nregistry_config = "${registry.certsDir}"\n`);
  await restart();
}

/** What a page takes for granted beside that. */
const BEFORE: Record<string, () => Promise<void>> = {
  /** It has a registry of its own, and archives. */
  'air-gapped.md': async () => {
    await type('cp archive.tar images.tar', 'the rig');
    rmSync(REGISTRY);
    await restart();
  },
  /** The network of the node's cluster. */
  'from-containerd.md': async () => {
    mkdirSync(NETWORKS, { recursive: true });
    const ipam = { type: 'host-local', ranges: [[{ subnet: '10.244.0.0/24' }]] };
    const plugins = [{ type: 'bridge', bridge: 'guide0', isGateway: true, ipam }];
    writeFileSync(join(NETWORKS, '10-guide.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: 'guide', plugins }));
    await restart();
  },
};
const NETWORKS = '/etc/cni/net.d';

async function asItWas(): Promise<void> {
  rmSync(CERTS, { recursive: true, force: true });
  rmSync(join(NETWORKS, '10-guide.conflist'), { force: true });
  await useRegistry();
}

/** The last way of the page, and everything taken away again. */
async function withoutPackageManager(): Promise<void> {
  await doSection('install.md', 'Anything else');
  await serving();
  await type('sluice status', 'the rig');
  await (SYSTEMD ? type('systemctl disable --now sluiced', 'the rig') : daemon?.stop(120_000));
  await type(
    'rm -rf /usr/lib/sluice* /usr/sbin/sluiced /usr/bin/sluice /etc/systemd/system/sluiced.* /var/lib/sluice /run/sluice',
    'the rig',
  );
  if (SYSTEMD) await type('systemctl daemon-reload', 'the rig');
}

async function upgradeAndRemove(): Promise<void> {
  await doSection('install.md', 'Upgrade');
  if (!SYSTEMD) await restart();
  // An emulated machine's plugins answer the first question some ten seconds after the start.
  const status = await waitFor('sluice status to be ready', PATIENCE_MS, () =>
    run('/usr/bin/sluice', ['status'], { env }),
  );
  assert.match(status.stdout, /0\.2\.0/);
  if (!SYSTEMD) await daemon?.stop(120_000);
  await doSection('install.md', 'Remove');
  for (const block of blocksOf('install.md')) if (!done.has(nameOf(block))) await doBlock(block);
  assert.ok(!existsSync('/usr/lib/sluice') && !existsSync('/etc/sluice') && !existsSync('/var/lib/sluice'));
}

let mirror: Server | undefined;
try {
  if (SYSTEMD) patientWatchdog();
  if (wanted('install.md')) await withoutPackageManager();

  // ---- The package, up to an upgrade

  await doSection('install.md', 'What was downloaded');
  const [install] = blocksOf('install.md').filter(({ heading }) => heading === 'Debian and Ubuntu');
  assert.ok(install);
  const [apt = '', ...looks] = install.text.trimEnd().split('\n');
  await typeBlock(apt, nameOf(install));
  if (!SYSTEMD) await restart();
  await typeBlock(looks.join('\n'), nameOf(install));
  done.add(nameOf(install));
  if (SYSTEMD) await type('crictl config --set timeout=600', 'the rig'); // seconds; its two are nothing there
  if (wanted('install.md')) await doSection('install.md', 'Debian and Ubuntu'); // and this block a second time
  await useRegistry();
  // It leaves the image that the others use, and an archive of it is made.
  await doSection('install.md', 'A first pod, without Kubernetes');
  await type(`sluice image export ${IMAGE} -o images.tar && mv images.tar archive.tar`, 'the rig');

  // ---- Every other page

  mirror = await insideMirror();
  for (const page of GUIDES) {
    if (page === 'install.md' || !wanted(page)) continue;
    const before = BEFORE[page];
    await before?.();
    await doPage(page);
    if (before) await asItWas();
  }

  // ---- What stands in running text

  if (wanted('install.md')) {
    using cri = connectCri(SOCKET);
    const away = await launchHello(cri);
    for (const command of TYPED) await trying(() => typeBlock(command, 'running text'));
    await trying(away);
  }

  // ---- Upgrade and remove

  if (wanted('install.md')) await upgradeAndRemove();
  const all = GUIDES.filter(wanted).flatMap((page) => blocksOf(page));
  if (only.length === 0) assert.deepEqual(all.filter((block) => !done.has(nameOf(block))).map(nameOf), []);
  for (const line of left) console.log(`left to the VM: ${line}`);
  assert.deepEqual(failures, []);
  console.log(`seen: all ${all.filter(({ kind, mark }) => kind === 'sh' && !mark).length} blocks of commands were run`);
} finally {
  if (!SYSTEMD) await daemon?.stop(10_000);
  mirror?.close();
  await registry.stop();
  rmSync(folder, { recursive: true, force: true });
}
