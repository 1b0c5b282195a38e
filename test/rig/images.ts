/**
 * The images that critest, the tests and the benchmarks name, made from Debian's packages and kept in a registry's
 * storage under .cache/images, so that the second time costs nothing.
 *
 *   node test/rig/images.ts [--serve]       fill the cache; with --serve also run a registry on it until Ctrl-C
 *
 * One image of critest cannot be had: the one it names by the digest of the public image.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { madeOnce } from './once.ts';
import { cacheFolder, privateFolder, program } from './paths.ts';
import { run } from './proc.ts';
import { copyStorage, type Registry, startRegistry } from './registry.ts';
import { Rootfs } from './rootfs.ts';

/** Changes with this file, so that an older cache is made anew. */
const RECIPE = createHash('sha256')
  .update(readFileSync(import.meta.filename))
  .digest('hex')
  .slice(0, 12);

const STAGING = 'k8s-staging-cri-tools/';
const ENV = ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'];
const PASSWD = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`;
const GROUP = 'root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n';
const PAUSE = `
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void quit(int s) { exit(0); }
static void reap(int s) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main() { signal(SIGINT, quit); signal(SIGTERM, quit); signal(SIGCHLD, reap); for (;;) pause(); }
`;
const SHOW_UID = `
#include <stdio.h>
#include <unistd.h>
int main() { printf("Effective uid: %d\\n", geteuid()); return 0; }
`;

/** A registry that serves all images read-only. */
export async function imageRegistry(folder: string): Promise<Registry> {
  return startRegistry({ folder, storage: await filledStorage(), readOnly: true });
}

/** A registry of the caller's own that holds all images and takes pushes. */
export async function writableImageRegistry(folder: string): Promise<Registry> {
  const storage = join(folder, 'registry');
  await copyStorage(await filledStorage(), storage);
  return startRegistry({ folder, storage });
}

async function filledStorage(): Promise<string> {
  return madeOnce(`images-${RECIPE}`, async (storage) => {
    console.error('rig: making the test images (once; about half a minute)');
    const folder = privateFolder('sluice-images');
    try {
      await using registry = await startRegistry({ folder, storage });
      await fill(registry.address);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

interface ImageConfig {
  Entrypoint?: string[];
  Cmd?: string[];
  Env?: string[];
  User?: string;
  ExposedPorts?: Record<string, object>;
  StopSignal?: string;
}

async function fill(registry: string): Promise<void> {
  const shell = await execShell();
  const push = (ref: string, layers: Buffer[], config: ImageConfig) => pushImage(registry, ref, layers, config);
  const shellConfig: ImageConfig = { Cmd: ['sh'], Env: ENV };
  const base = (await busybox(shell)).done();
  const marked = (text: string) => [base, new Rootfs().file(text, text).done()];

  const pause = await compile(PAUSE);
  for (const tag of ['3.6', '3.9', '3.10', '3.10.1', '3.10.2', 'latest']) {
    const layer = new Rootfs().file('pause', pause, 0o755).file('etc/version', `pause:${tag}`).done();
    await push(`pause:${tag}`, [layer], { Entrypoint: ['/pause'], Env: ENV });
  }
  for (const ref of ['e2e-test-images/busybox:1.29-2', 'library/busybox:latest', 'library/busybox:1']) {
    await push(ref, [base], shellConfig);
  }
  for (const tag of ['1.35.0-glibc', '1-uclibc', '1', '1-glibc', '1-musl']) {
    await push(`docker/library/busybox:${tag}`, [base, new Rootfs().file('flavour', tag).done()], shellConfig);
  }
  await push(`${STAGING}test-image-latest:latest`, marked('latest'), shellConfig);
  await push(`${STAGING}test-image-tag:test`, marked('tag-test'), shellConfig);
  await push(`${STAGING}test-image-tag:all`, marked('tag-all'), shellConfig);
  await push(`${STAGING}test-image-digest:test`, marked('digest'), shellConfig);
  for (const n of ['1', '2', '3']) {
    await push(`${STAGING}test-image-${n}:latest`, marked(`img${n}`), shellConfig);
    await push(`${STAGING}test-image-tags:${n}`, marked('tags'), shellConfig);
  }
  const users = { uid: '1002', username: 'www-data', 'uid-group': '1003:users', 'username-group': 'www-data:100' };
  const withUsers = (await busybox(shell, PASSWD, `${GROUP}users:x:100:\n`)).done();
  for (const [name, user] of Object.entries(users)) {
    await push(`${STAGING}test-image-user-${name}:latest`, [withUsers], { ...shellConfig, User: user });
  }
  const defined = await busybox(
    shell,
    `${PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n`,
    `${GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n`,
  );
  await push(`${STAGING}test-image-predefined-group:latest`, [defined.done()], { ...shellConfig, User: '1000' });

  for (const [ref, port] of [
    ['e2e-test-images/nginx:1.14-2', 80],
    [`${STAGING}hostnet-nginx-amd64:latest`, 12003],
  ] as const) {
    await push(ref, [base, await nginx(port)], {
      Cmd: ['nginx', '-g', 'daemon off;'],
      Env: ENV,
      ExposedPorts: { [`${port}/tcp`]: {} },
      StopSignal: 'SIGTERM',
    });
  }
  const page = new Rootfs().file('www/index.html', '<html><body><h1>It works!</h1></body></html>\n').done();
  await push('e2e-test-images/httpd:2.4.39-4', [base, page], {
    Cmd: ['sh', '-c', 'echo httpd started >&2; exec httpd -f -p 80 -h /www'],
    Env: ENV,
  });
  const setuid = new Rootfs().file('nnp', await compile(SHOW_UID), 0o4755).done();
  await push('e2e-test-images/nonewprivs:1.3', [base, setuid], { Cmd: ['/nnp'], Env: ENV });
  await push('bench/large:latest', [base, ...heavyLayers()], shellConfig);
}

/** Many small files, one large one, and whiteouts: what unpacking is slow at. */
function heavyLayers(): Buffer[] {
  const many = new Rootfs();
  for (let i = 0; i < 6000; i++) {
    many.file(`usr/lib/many/${i % 97}/${i}.js`, `export const v${i} = '${'x'.repeat(i % 700)}';\n`.repeat(4));
  }
  // Bytes that do not compress, the same at every build: a chain of hashes.
  const noise = Buffer.concat(
    Array.from({ length: (1 << 20) / 32 }, (_, i) => createHash('sha256').update(`${i}`).digest()),
  );
  const big = new Rootfs().file('usr/lib/big.bin', Buffer.concat(Array.from({ length: 60 }, () => noise)));
  const whiteouts = new Rootfs()
    .file('usr/lib/many/0/.wh.0.js', '')
    .file('usr/lib/many/1/.wh..wh..opq', '')
    .file('usr/lib/many/1/new.js', 'new');
  return [many.done(), big.done(), whiteouts.done()];
}

async function busybox(shell: string, passwd = PASSWD, group = GROUP): Promise<Rootfs> {
  const root = new Rootfs();
  for (const dir of ['bin', 'etc', 'root', 'var/log', 'var/run', 'dev', 'proc', 'sys', 'home', 'usr/bin', 'usr/sbin']) {
    root.directory(dir);
  }
  root.directory('tmp', 0o1777);
  root.file('bin/busybox', readFileSync('/bin/busybox'), 0o755);
  const { stdout } = await run('/bin/busybox', ['--list']);
  for (const applet of stdout.trim().split('\n')) {
    if (applet !== 'busybox' && applet !== 'sh') root.hardLink(`bin/${applet}`, 'bin/busybox');
  }
  await root.program(shell, 'bin/sh');
  for (const tool of ['ipcs', 'pgrep']) await root.program(program(tool));
  return root.file('etc/passwd', passwd).file('etc/group', group).file('etc/shadow', 'root:*:::::::\n', 0o600);
}

/**
 * The shell of Debian's package busybox. busybox-static's runs applets without exec, which hides from critest what the
 * public image does; the two packages cannot be installed together, so this one is only unpacked.
 */
async function execShell(): Promise<string> {
  const folder = cacheFolder('busybox');
  const shell = join(folder, 'bin/busybox');
  if (!existsSync(shell)) {
    const download = mkdtempSync(join(tmpdir(), 'sluice-deb-'));
    try {
      // apt drops to the user _apt, which must be able to write here.
      await run('chmod', ['755', download]);
      await run('apt-get', ['download', '-qq', '-o', 'APT::Sandbox::User=root', 'busybox'], { cwd: download });
      await run('sh', ['-c', 'dpkg -x busybox_*.deb .'], { cwd: download });
      mkdirSync(join(folder, 'bin'), { recursive: true });
      await run('cp', [join(download, 'bin/busybox'), shell]);
    } finally {
      rmSync(download, { recursive: true, force: true });
    }
  }
  return shell;
}

async function nginx(port: number): Promise<Buffer> {
  const root = await new Rootfs().program(program('nginx'), 'usr/sbin/nginx');
  root.directory('var/lib/nginx').directory('var/log/nginx');
  root.file(
    'etc/nginx/nginx.conf',
    `user www-data;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 64; }
http { access_log off; server { listen ${port}; root /www; } }
`,
  );
  const page =
    '<html><head><title>Welcome to nginx!</title></head><body><h1>It works! Welcome to nginx!</h1></body></html>\n';
  return root.file('www/index.html', page).done();
}

/** A small static program. */
async function compile(source: string): Promise<Buffer> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-cc-'));
  try {
    writeFileSync(join(folder, 'a.c'), source);
    await run('gcc', ['-Os', '-static', '-s', '-o', 'a', 'a.c'], { cwd: folder });
    return readFileSync(join(folder, 'a'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const digestOf = (data: Uint8Array) => `sha256:${createHash('sha256').update(data).digest('hex')}`;

async function pushImage(registry: string, ref: string, layers: Buffer[], config: ImageConfig): Promise<void> {
  const at = ref.lastIndexOf(':');
  const base = `http://${registry}/v2/${ref.slice(0, at)}`;
  const descriptors = [];
  for (const layer of layers) {
    const blob = gzipped(layer);
    const mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip';
    descriptors.push({ mediaType, digest: await pushBlob(base, blob), size: blob.length });
  }
  const image = Buffer.from(
    JSON.stringify({
      architecture: process.arch === 'x64' ? 'amd64' : process.arch,
      os: 'linux',
      created: '2024-01-01T00:00:00Z',
      config,
      rootfs: { type: 'layers', diff_ids: layers.map(digestOf) },
      history: layers.map(() => ({ created_by: 'rig' })),
    }),
  );
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: await pushBlob(base, image),
      size: image.length,
    },
    layers: descriptors,
  });
  const answer = await fetch(`${base}/manifests/${ref.slice(at + 1)}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
    body: manifest,
  });
  if (answer.status !== 201) throw new Error(`manifest of ${ref}: ${answer.status} ${await answer.text()}`);
}

const zipped = new WeakMap<Buffer, Buffer>();
function gzipped(layer: Buffer): Buffer {
  const known = zipped.get(layer);
  if (known) return known;
  const fresh = gzipSync(layer, { level: 6 });
  zipped.set(layer, fresh);
  return fresh;
}

async function pushBlob(base: string, blob: Buffer): Promise<string> {
  const digest = digestOf(blob);
  if ((await fetch(`${base}/blobs/${digest}`, { method: 'HEAD' })).ok) return digest;
  const begun = await fetch(`${base}/blobs/uploads/`, { method: 'POST' });
  const location = new URL(begun.headers.get('location') ?? '', base);
  location.searchParams.set('digest', digest);
  const put = await fetch(location, {
    method: 'PUT',
    headers: { 'content-type': 'application/octet-stream' },
    body: new Uint8Array(blob),
  });
  if (put.status !== 201) throw new Error(`blob ${digest}: ${put.status} ${await put.text()}`);
  return digest;
}

if (import.meta.main) {
  const folder = privateFolder('sluice-registry');
  const registry = await imageRegistry(folder);
  console.log(`${registry.address} ${registry.certsDir}`);
  if (process.argv.includes('--serve')) {
    await new Promise((resolve) => {
      process.once('SIGINT', resolve);
      process.once('SIGTERM', resolve);
    });
  }
  await registry.stop();
  rmSync(folder, { recursive: true });
}
