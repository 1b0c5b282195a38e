/** `sluice image …`: images on this node, pulls with progress, archives. */
import { copyFileSync, createReadStream, createWriteStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { AuthConfig, Image } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { loadConfig } from '../../node/config/load.ts';
import { storedAuth } from '../../node/images/credentials.ts';
import { nameOf, parseReference } from '../../node/images/reference.ts';
import type { SocketClient } from '../cri/image-client.ts';
import type { ImageEvent } from '../cri/image-service.ts';
import { type Call, type Command, EXIT, optionText, printJson, printTable } from './command.ts';
import { bytesText, LayerBars } from './layer-bars.ts';

const IMAGES = { name: 'image', description: 'names, ids or their beginnings', many: true } as const;
const QUIET = { flags: '-q, --quiet', description: 'no progress' };
const SHORT_ID = 12;

/** The client of `--socket`, else of the configuration's socket; gRPC is loaded here, since most commands do without. */
async function connect(call: Call): Promise<SocketClient> {
  const { connectSocket } = await import('../cri/image-client.ts');
  return connectSocket(optionText(call, 'socket') ?? loadConfig(optionText(call, 'config')).socket);
}

function namesIn({ arguments: all }: Call): string[] {
  const names = all.filter((name) => name !== undefined);
  if (names.length === 0) throw new SluiceError('INVALID_REQUEST', 'name an image');
  return names;
}

const LS: Command = {
  name: 'image ls',
  summary: 'list images',
  peers: ['cri'],
  json: true,
  async run(call) {
    using client = await connect(call);
    const { images } = await client.cri.listImages({});
    const rows = images.map(plain).sort((a, b) => a.name.localeCompare(b.name));
    if (call.options.json) printJson(call.out, rows);
    else {
      const cells = rows.map(({ name, id, size, pinned }) => [
        name,
        id.replace('sha256:', '').slice(0, SHORT_ID),
        bytesText(size),
        pinned ? 'pinned' : '',
      ]);
      printTable(call.out, ['IMAGE', 'ID', 'SIZE', ''], cells);
    }
    return EXIT.ok.status;
  },
};

const plain = ({ id, repoTags, repoDigests, size, pinned }: Image) => ({
  ...{ name: repoTags[0] ?? repoDigests[0] ?? id, id, repoTags, repoDigests, pinned },
  size: Number(size),
});

const PULL: Command = {
  name: 'image pull',
  summary: 'pull images, with a bar for each layer',
  description: 'Credentials are those of --creds, else those of the file that images.credentials names.',
  arguments: [IMAGES],
  options: [{ flags: '--creds <user:password>', description: 'login for the registry' }, QUIET],
  peers: ['cri'],
  async run(call) {
    using client = await connect(call);
    for (const name of namesIn(call)) {
      const auth = await authFor(name, call);
      const [done] = await follow(client.images.pull({ image: name, auth }), name, call);
      call.out.write(`${name} ${done?.id}\n`);
    }
    return EXIT.ok.status;
  },
};

async function authFor(name: string, call: Call): Promise<AuthConfig | undefined> {
  const creds = optionText(call, 'creds');
  if (creds !== undefined) {
    const colon = creds.indexOf(':');
    if (colon < 0) throw new SluiceError('INVALID_REQUEST', '--creds must be USER:PASSWORD');
    const [username, password] = [creds.slice(0, colon), creds.slice(colon + 1)];
    return { username, password, auth: '', serverAddress: '', identityToken: '', registryToken: '' };
  }
  const file = loadConfig(optionText(call, 'config')).images.credentials;
  return file === '' ? undefined : storedAuth(file, nameOf(parseReference(name)));
}

const INSPECT: Command = {
  name: 'image inspect',
  summary: 'print the record and the configuration of images as JSON',
  arguments: [IMAGES],
  peers: ['cri'],
  async run(call) {
    using client = await connect(call);
    const found: object[] = [];
    for (const name of namesIn(call)) {
      const { image, info } = await client.cri.imageStatus({ image: spec(name), verbose: true });
      if (!image) throw absent(name);
      found.push({ ...plain(image), ...(JSON.parse(info.info ?? '{}') as object) });
    }
    printJson(call.out, found);
    return EXIT.ok.status;
  },
};

const spec = (name: string) => ({
  ...{ image: name, annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
});

const absent = (name: string) => new SluiceError('IMAGE_NOT_FOUND', `image ${name} is not on this node`);

const RM: Command = {
  name: 'image rm',
  summary: 'remove images under all their names',
  arguments: [IMAGES],
  peers: ['cri'],
  async run(call) {
    using client = await connect(call);
    for (const name of namesIn(call)) {
      const { image } = await client.cri.imageStatus({ image: spec(name) });
      if (!image) throw absent(name);
      await client.cri.removeImage({ image: spec(name) });
      call.out.write(`removed ${[...image.repoTags, ...image.repoDigests].join(' ') || image.id}\n`);
    }
    return EXIT.ok.status;
  },
};

const GC: Command = {
  name: 'image gc',
  summary: 'remove the images that no pod, container or volume uses',
  description: 'The pinned image, which pods need to start, stays.',
  peers: ['cri'],
  async run(call) {
    using client = await connect(call);
    const { images: removed, bytes } = await client.images.removeUnused({});
    for (const { id, names } of removed) call.out.write(`removed ${names[0] ?? id}\n`);
    call.out.write(`${removed.length} images, ${bytesText(bytes)} freed\n`);
    return EXIT.ok.status;
  },
};

const IMPORT: Command = {
  name: 'image import',
  summary: 'import the images of an archive',
  description: 'An OCI archive or one of `docker save`, compressed or not. "-" reads standard input.',
  arguments: [{ name: 'file', description: 'the archive, or -', complete: 'file' }],
  options: [{ flags: '--name <image>', description: 'name for an image that has none in the archive' }, QUIET],
  peers: ['cri'],
  async run(call) {
    using client = await connect(call);
    const file = call.arguments[0] ?? '-';
    const folder = file === '-' ? mkdtempSync(join(tmpdir(), 'sluice-import-')) : undefined;
    try {
      const path = folder ? join(folder, 'archive') : resolve(file);
      if (folder) await pipeline(process.stdin, createWriteStream(path, { mode: 0o600 }));
      const work = client.images.import({ path: forDaemon(path), name: optionText(call, 'name') });
      for (const { id, names } of await follow(work, file, call)) call.out.write(`${names[0]} ${id}\n`);
    } finally {
      if (folder) rmSync(folder, { recursive: true, force: true });
    }
    return EXIT.ok.status;
  },
};

const EXPORT: Command = {
  name: 'image export',
  summary: 'write images to an archive',
  description:
    'docker, podman, containerd and Sluice import it. With images.keep_blobs it has the digests of the registry; else the layers are made anew.',
  arguments: [IMAGES],
  options: [
    { flags: '-o, --output <file>', description: 'the file to write (default: standard output)', complete: 'file' },
    QUIET,
  ],
  peers: ['cri'],
  async run(call) {
    const output = optionText(call, 'output');
    if (output === undefined && call.out.isTTY)
      throw new SluiceError('INVALID_REQUEST', 'an archive is not for a terminal: redirect it or name a file with -o');
    using client = await connect(call);
    const folder = mkdtempSync(join(tmpdir(), 'sluice-export-'));
    const path = join(folder, 'archive.tar');
    try {
      let remade = false;
      for await (const event of client.images.export({ images: namesIn(call), path: forDaemon(path) })) {
        if (event.kind === 'layer' && !call.options.quiet)
          process.stderr.write(`layer ${event.digest.slice(7, 7 + SHORT_ID)} ${bytesText(event.size)}\n`);
        if (event.kind === 'done') remade = event.images.some((one) => one.remade === true);
      }
      if (remade)
        process.stderr.write(
          'layers were made anew: their digests are not the registry’s (images.keep_blobs keeps those)\n',
        );
      if (output === undefined) await pipeline(createReadStream(path), call.out, { end: false });
      else copyFileSync(path, resolve(output));
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
    return EXIT.ok.status;
  },
};

/** A path of this process as the daemon reaches it, which may have another /tmp (systemd's PrivateTmp). */
const forDaemon = (path: string) => `/proc/${process.pid}/root${path}`;

type Done = Extract<ImageEvent, { kind: 'done' }>['images'];

/** Draws bars for the layers of a call until it is done, and returns its images. */
async function follow(events: AsyncIterable<ImageEvent>, title: string, { options }: Call): Promise<Done> {
  const bars = new LayerBars(process.stderr, options.quiet !== true && process.stderr.isTTY === true);
  let done: Done = [];
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

export const IMAGE_COMMANDS: readonly Command[] = [LS, PULL, INSPECT, RM, GC, IMPORT, EXPORT];
