/**
 * The demo beside docker: a dockerd with two containers, one of which has a published port, and the demo to its end and
 * with Ctrl-C. What docker has is the same afterwards: rules, links, addresses, routes, mounts, and its containers'
 * processes; the port answers all along.
 *
 *   node test/rig/docker-scenario.ts DOCKERD CONTAINERD SHIM RUNC FOLDER
 *
 * For a throw-away root (test/rig/docker.ts): docker keeps its chains and its bridges.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { delimiter, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { stringify } from 'smol-toml';
import { program, ROOT } from './paths.ts';
import { run, start, waitFor } from './proc.ts';
import { Rootfs } from './rootfs.ts';

const [dockerd = '', containerd = '', shim = '', runc = ''] = process.argv.slice(2);
const FOLDER = '/var/lib/docker-rig';
const PORT = 18_099;
const IMAGE = 'rig:1';
const seen = (words: string) => console.log(`seen: ${words}`);

// ---- Docker

const bin = join(FOLDER, 'bin');
mkdirSync(bin, { recursive: true });
symlinkSync(shim, join(bin, 'containerd-shim-runc-v2'));
symlinkSync(runc, join(bin, 'runc'));
const env = { ...process.env, PATH: [bin, process.env.PATH].join(delimiter) };
const containerdSocket = join(FOLDER, 'containerd.sock');
const socket = join(FOLDER, 'docker.sock');
const config = join(FOLDER, 'containerd.toml');
writeFileSync(
  config,
  stringify({
    version: 3,
    root: join(FOLDER, 'containerd'),
    state: '/run/docker-containerd',
    disabled_plugins: ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime'],
    grpc: { address: containerdSocket },
  }),
);
const below = start(containerd, ['--config', config], join(FOLDER, 'containerd.log'), env);
const folders = ['--data-root', join(FOLDER, 'docker'), '--exec-root', '/run/docker', '--pidfile', '/run/docker.pid'];
const docker = start(
  dockerd,
  [
    ...folders,
    '--containerd',
    containerdSocket,
    '-H',
    `unix://${socket}`,
    '--userland-proxy=false',
    '--cgroup-parent',
    '/sluicedocker',
  ],
  join(FOLDER, 'dockerd.log'),
  env,
);

/** A call of docker's API; resolves with its answer. Throws on a status above 299. */
async function ask(method: string, path: string, body?: object | Buffer): Promise<unknown> {
  const type = body instanceof Buffer ? 'application/x-tar' : 'application/json';
  const call = request({ socketPath: socket, method, path: `/v1.44${path}`, headers: { 'content-type': type } });
  call.end(body instanceof Buffer || body === undefined ? body : JSON.stringify(body));
  const [answer] = await once(call, 'response');
  const words = await text(answer);
  if (answer.statusCode > 299) throw new Error(`docker: ${method} ${path}: ${answer.statusCode} ${words}`);
  return words === '' || type === 'application/x-tar' ? words : JSON.parse(words);
}

async function launch(name: string, script: string, more: object): Promise<void> {
  await ask('POST', `/containers/create?name=${name}`, { Image: IMAGE, Cmd: ['sh', '-c', script], ...more });
  await ask('POST', `/containers/${name}/start`);
}

/** Everything of docker's that another runtime could spoil. */
async function snapshot(): Promise<string[]> {
  const output = async (command: string, ...args: string[]) => (await run(program(command), args)).stdout.split('\n');
  const rules = [...(await output('iptables-save')), ...(await output('ip6tables-save'))]
    .filter((line) => !line.startsWith('#'))
    .map((line) => line.replace(/ ?\[\d+:\d+\]/, ''));
  const links = (await output('ip', '-o', 'address')).map((line) =>
    line.replace(/^\d+: /, '').replace(/( tentative)? *\\.*/, ''),
  );
  const containers = ['web', 'side'].map(async (name) => {
    const { State, RestartCount } = (await ask('GET', `/containers/${name}/json`)) as {
      State: { Pid: number; Status: string };
      RestartCount: number;
    };
    return `${name}: ${State.Status}, pid ${State.Pid}, ${RestartCount} restarts`;
  });
  return [
    ...rules,
    ...links,
    ...(await output('ip', 'route')),
    ...readFileSync('/proc/mounts', 'utf8').split('\n'),
    `forward ${readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8').trim()}`,
    ...(await Promise.all(containers)),
  ];
}

const page = async () => (await fetch(`http://192.0.2.2:${PORT}/`)).text();

/** The demo, interrupted once it has said something; resolves with its status and output. */
async function demo(interruptAt?: RegExp): Promise<{ code: number | null; out: string }> {
  const args = ['--disable-warning=ExperimentalWarning', join(ROOT, 'scripts/demo.ts'), '--pods', '16'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  let sent = false;
  for await (const data of child.stdout) {
    out += data;
    if (sent || !interruptAt?.test(out)) continue;
    sent = true;
    child.kill('SIGINT');
  }
  if (child.exitCode === null) await once(child, 'exit');
  return { code: child.exitCode, out };
}

try {
  const { Version } = await waitFor(
    'docker',
    60_000,
    async () => (await ask('GET', '/version')) as { Version: string },
  );
  const root = new Rootfs().file('bin/busybox', readFileSync(program('busybox')), 0o755);
  for (const applet of ['sh', 'sleep', 'httpd', 'mkdir']) root.hardLink(`bin/${applet}`, 'bin/busybox');
  const [repo, tag] = IMAGE.split(':');
  await ask('POST', `/images/create?fromSrc=-&repo=${repo}&tag=${tag}`, root.done());
  await ask('POST', '/networks/create', { Name: 'other' });
  await launch('web', 'mkdir /www; echo hi >/www/index.html; exec httpd -f -p 80 -h /www', {
    ExposedPorts: { '80/tcp': {} },
    HostConfig: { PortBindings: { '80/tcp': [{ HostPort: String(PORT) }] } },
  });
  await launch('side', 'exec sleep 10000', { HostConfig: { NetworkMode: 'other' } });
  await waitFor('the port that docker publishes', 30_000, async () => (await page()) === 'hi\n' || undefined);
  const before = await snapshot();
  assert.ok(
    before.some((line) => line.includes('-j DOCKER')),
    'docker has rules',
  );
  seen(`docker ${Version} with two containers, ${before.length} lines of rules, links, routes and mounts`);

  const whole = await demo();
  assert.equal(whole.code, 0, whole.out);
  assert.match(whole.out, /^Nothing left/m);
  assert.deepEqual(await snapshot(), before);
  assert.equal(await page(), 'hi\n');
  seen('the demo beside it, and docker as before');

  const short = await demo(/^Launched/m);
  assert.equal(short.code, 1);
  assert.match(short.out, /Interrupted: taking everything away/);
  assert.deepEqual(await snapshot(), before);
  assert.equal(await page(), 'hi\n');
  seen('likewise with Ctrl-C');
  for (const name of ['web', 'side']) await ask('DELETE', `/containers/${name}?force=1`);
} finally {
  await docker.stop(30_000);
  await below.stop(30_000);
}
