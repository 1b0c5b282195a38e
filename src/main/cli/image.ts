import {
  copyFileSync,
  createReadStream,
  createWriteStream,
  existsSync,
  fstatSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { AuthConfig, Image } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { loadConfig } from '../../node/config/load.ts';
import { storedAuth } from '../../node/images/credentials.ts';
import { nameOf, parseReference } from '../../node/images/reference.ts';
import { parseQuantity } from '../../node/network/quantity.ts';
import { hostFiles } from '../../workers/host-paths/read-file.ts';
import type { ImageEvent } from '../cri/image-service.ts';
import { connectSocket, type SocketClient } from '../cri/images-client.ts';
import { type Argument, type Command, EXIT, type Option } from './command.ts';
import { bytesText, LayerBars } from './layer-bars.ts';

interface Options {
  json?: boolean;
  quiet?: boolean;
  name?: string;
  output?: string;
  keep?: string;
  creds?: string;
  config?: string;
  socket?: string;
}

interface Work {
  summary: string;
  /** How the arguments are called; absent: there are none. */
  names?: Argument;
  options?: readonly Option[];
  json?: boolean;
  work: (client: SocketClient, names: string[], options: Options) => Promise<void>;
}

const IMAGES: Argument = { name: 'image', description: 'names, ids or beginnings of ids', many: true };
const QUIET: Option = { flags: '-q, --quiet', description: 'no progress' };

const WORKS: Record<string, Work> = {
  ls: { summary: 'images on this node', json: true, work: list },
  pull: {
    summary: 'pull, with a bar for each layer',
    names: IMAGES,
    options: [QUIET, { flags: '--creds <user:password>', description: 'login; else that of images.credentials' }],
    json: true,
    work: pull,
  },
  inspect: { summary: 'the record and configuration of an image, as JSON', names: IMAGES, work: inspect },
  rm: { summary: 'remove images under all their names', names: IMAGES, json: true, work: remove },
  gc: {
    summary: 'remove images that no pod, container or volume uses',
    options: [{ flags: '--keep <size>', description: 'only until images take no more than this, oldest use first' }],
    json: true,
    work: collect,
  },
  import: {
    summary: 'images of an OCI archive or of `docker save`, compressed or not',
    names: { name: 'file', description: 'archives; - is standard input', many: true, complete: 'file' },
    options: [QUIET, { flags: '--name <image>', description: 'name of an image whose archive has none' }],
    json: true,
    work: importFiles,
  },
  export: {
    summary: 'write an archive that docker, containerd and Sluice import',
    names: IMAGES,
    options: [{ flags: '-o, --output <file>', description: 'default: standard output', complete: 'file' }],
    work: exportFile,
  },
};

/** `sluice image ls`, `sluice image pull` and so on. */
export const IMAGE_COMMANDS: readonly Command[] = Object.entries(WORKS).map(([name, { work, names, ...rest }]) => ({
  name: `image ${name}`,
  ...rest,
  arguments: names && [names],
  peers: ['cri'],
  async run(call) {
    const given = call.arguments.filter((one) => one !== undefined);
    if (names && given.length === 0)
      throw new SluiceError('INVALID_REQUEST', `image ${name}: no ${names.name} is given`);
    const { socket, config } = call.options;
    const path = typeof config === 'string' ? config : undefined;
    using client = connectSocket(typeof socket === 'string' ? socket : loadConfig(path).socket);
    await work(client, given, call.options as Options);
    return EXIT.ok.status;
  },
}));

const say = (text: string) => process.stdout.write(`${text}\n`);
const sayJson = (value: unknown) => say(JSON.stringify(value, undefined, 2));

async function list({ cri }: SocketClient, _: string[], { json }: Options): Promise<void> {
  const { images } = await cri.listImages({});
  if (json) return void sayJson(images.map(plain));
  const rows = images.map(({ id, repoTags, repoDigests, size, pinned }) => [
    repoTags[0] ?? repoDigests[0] ?? '-',
    id.replace('sha256:', '').slice(0, 12),
    bytesText(Number(size)),
    pinned ? 'pinned' : '',
  ]);
  const table = [['IMAGE', 'ID', 'SIZE', ''], ...rows.sort((a, b) => (a[0] ?? '').localeCompare(b[0] ?? ''))];
  const widths = [0, 1, 2].map((column) => Math.max(...table.map((row) => row[column]?.length ?? 0)));
  for (const row of table)
    say(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    );
}

const plain = ({ id, repoTags, repoDigests, size, pinned }: Image) => ({
  ...{ id, repoTags, repoDigests, pinned },
  size: Number(size),
});

async function pull({ images }: SocketClient, names: string[], options: Options): Promise<void> {
  const pulled: { name: string; id: string }[] = [];
  for (const name of names) {
    const auth = await authFor(name, options);
    const done = await follow(images.pull({ image: name, auth }), name, options);
    for (const { id = '' } of done) {
      pulled.push({ name, id });
      if (!options.json) say(`${name} ${id}`);
    }
  }
  if (options.json) sayJson(pulled);
}

async function authFor(name: string, { creds, config }: Options): Promise<AuthConfig | undefined> {
  if (creds !== undefined) {
    const colon = creds.indexOf(':');
    if (colon < 0) throw new SluiceError('INVALID_REQUEST', '--creds must be USER:PASSWORD');
    const [username, password] = [creds.slice(0, colon), creds.slice(colon + 1)];
    return { username, password, auth: '', serverAddress: '', identityToken: '', registryToken: '' };
  }
  const file = loadConfig(config).images.credentials;
  return file === '' ? undefined : storedAuth(file, nameOf(parseReference(name)), hostFiles);
}

async function inspect({ cri }: SocketClient, names: string[]): Promise<void> {
  const found: object[] = [];
  for (const name of names) {
    const { image: one, info } = await cri.imageStatus({ image: spec(name), verbose: true });
    if (!one) throw new SluiceError('IMAGE_NOT_FOUND', `image ${name} is not on this node`);
    found.push({ ...plain(one), ...(JSON.parse(info.info ?? '{}') as object) });
  }
  sayJson(found);
}

const spec = (name: string) => ({
  ...{ image: name, annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
});

async function remove({ cri }: SocketClient, names: string[], { json }: Options): Promise<void> {
  const removed: { id: string; names: string[] }[] = [];
  for (const name of names) {
    const { image: one } = await cri.imageStatus({ image: spec(name) });
    if (!one) throw new SluiceError('IMAGE_NOT_FOUND', `image ${name} is not on this node`);
    await cri.removeImage({ image: spec(name) });
    const all = [...one.repoTags, ...one.repoDigests];
    removed.push({ id: one.id, names: all });
    if (!json) say(`removed ${all.join(' ') || one.id}`);
  }
  if (json) sayJson(removed);
}

async function collect({ images }: SocketClient, _: string[], { keep, json }: Options): Promise<void> {
  const keepBytes = typeof keep === 'string' ? parseQuantity(keep) : undefined;
  if (typeof keep === 'string' && keepBytes === undefined)
    throw new SluiceError('INVALID_REQUEST', `--keep ${keep} is not a quantity like 50Gi`);
  const { images: removed, bytes } = await images.removeUnused({ keepBytes });
  if (json) return void sayJson({ removed: removed.map(({ id, names }) => ({ id, names })), bytes });
  for (const { id, names } of removed) say(`removed ${names[0] ?? id}`);
  say(`${removed.length} images, ${bytesText(bytes)} freed`);
}

async function importFiles(client: SocketClient, files: string[], options: Options): Promise<void> {
  if (options.name !== undefined && files.length > 1)
    throw new SluiceError('INVALID_REQUEST', '--name is for one archive, since a name is one image’s');
  const imported: { names: string[]; id: string }[] = [];
  for (const file of files) {
    for (const one of await importFile(client, file, options)) {
      imported.push(one);
      if (!options.json) say(`${one.names[0]} ${one.id}`);
    }
  }
  if (options.json) sayJson(imported);
}

async function importFile({ images }: SocketClient, file: string, options: Options) {
  const folder = file === '-' ? mkdtempSync(join(tmpdir(), 'sluice-import-')) : undefined;
  try {
    const path = folder ? join(folder, 'archive') : resolve(file);
    if (folder) await pipeline(process.stdin, createWriteStream(path, { mode: 0o600 }));
    else statSync(path); // one that is not there is said by the name that the caller gave it
    const done = await follow(images.import({ path: forDaemon(path), name: options.name }), file, options);
    return done.map(({ id = '', names }) => ({ names, id }));
  } finally {
    if (folder) rmSync(folder, { recursive: true, force: true });
  }
}

async function exportFile({ images }: SocketClient, names: string[], options: Options): Promise<void> {
  const { output } = options;
  if (output === undefined && process.stdout.isTTY)
    throw new SluiceError('INVALID_REQUEST', 'an archive is not for a terminal: redirect it or name a file with -o');
  const folder = mkdtempSync(join(tmpdir(), 'sluice-export-'));
  const path = join(folder, 'archive.tar');
  try {
    let remade = false;
    for await (const event of images.export({ images: names, path: forDaemon(path) })) {
      if (event.kind === 'layer' && !options.quiet)
        process.stderr.write(`layer ${event.digest.slice(7, 19)} ${bytesText(event.size)}\n`);
      if (event.kind === 'done') remade = event.images.some((one) => one.remade === true);
    }
    if (remade)
      process.stderr.write(
        'layers were made anew: their digests are not the registry’s (images.keep_blobs keeps those)\n',
      );
    if (output === undefined) await pipeline(createReadStream(path), process.stdout, { end: false });
    else copyFileSync(path, resolve(output));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Draws bars for the layers of a call until it is done, and returns its images. */
async function follow(
  events: AsyncIterable<ImageEvent>,
  title: string,
  { quiet }: Options,
): Promise<Extract<ImageEvent, { kind: 'done' }>['images']> {
  const bars = new LayerBars(process.stderr, quiet !== true && isTerminal(process.stderr.fd));
  let done: Extract<ImageEvent, { kind: 'done' }>['images'] = [];
  try {
    for await (const event of events) {
      if (event.kind === 'layers') bars.draw(title, event.layers);
      if (event.kind === 'done') done = event.images;
    }
  } finally {
    bars.clear();
  }
  return done;
}

/**
 * A path of this process as the daemon reaches it, which may have another /tmp (systemd's PrivateTmp). The daemon takes
 * no symbolic links there; the last name may not exist yet.
 */
const forDaemon = (path: string) =>
  `/proc/${process.pid}/root${existsSync(path) ? realpathSync(path) : join(realpathSync(dirname(path)), basename(path))}`;

const isTerminal = (fd: number) => fstatSync(fd).isCharacterDevice() && process.stderr.isTTY === true;
