/** Debian's docker-registry on a free port of loopback, with the hosts.toml that points every reference at it. */
import { cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { program } from './paths.ts';
import { freePort, GivenUp, run, type Started, start, waitFor } from './proc.ts';
import { tidyAtSignal } from './tidy.ts';

export interface Registry extends AsyncDisposable {
  /** host:port, without a scheme. */
  address: string;
  /** Folder for a runtime's registry_config or config_path: every registry name resolves here. */
  certsDir: string;
  process: Started;
  stop(): Promise<void>;
}

export interface RegistryOptions {
  /** Private folder for the log and configuration. */
  folder: string;
  /** Where blobs are kept; default <folder>/registry. */
  storage?: string;
  /** Another distribution than Debian's. */
  program?: string;
  /** Refuse pushes and deletes: several registries may then share one storage. */
  readOnly?: boolean;
}

export async function startRegistry(options: RegistryOptions): Promise<Registry> {
  const storage = options.storage ?? join(options.folder, 'registry');
  mkdirSync(storage, { recursive: true });
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  const conf = join(options.folder, `registry-${port}.yml`);
  writeFileSync(
    conf,
    `version: 0.1
log: { level: warn }
storage:
  filesystem: { rootdirectory: ${storage} }
  delete: { enabled: true }
  maintenance:
    uploadpurging: { enabled: false }
    readonly: { enabled: ${options.readOnly ?? false} }
http: { addr: '${address}' }
`,
  );
  const server = start(
    options.program ?? program('docker-registry'),
    ['serve', conf],
    join(options.folder, `registry-${port}.log`),
    {
      PATH: process.env.PATH,
      OTEL_TRACES_EXPORTER: 'none',
    },
  );
  try {
    await waitFor('docker-registry', 60_000, async () => {
      if (!server.running()) throw new GivenUp(`docker-registry ended: ${server.log()}`);
      return (await fetch(`http://${address}/v2/`)).ok || undefined;
    });
  } catch (error) {
    await server.stop(1000);
    throw error;
  }
  const certsDir = join(options.folder, `certs-${port}.d`);
  writeHosts(certsDir, '_default', address);
  const stop = async () => {
    await server.stop(5000);
    untidy();
  };
  const untidy = tidyAtSignal(stop);
  return { address, certsDir, process: server, stop, [Symbol.asyncDispose]: stop };
}

/** Writes certsDir/NAME/hosts.toml: references of registry NAME are asked for at `address`, over plain http. */
export function writeHosts(certsDir: string, name: string, address: string): void {
  const folder = join(certsDir, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, 'hosts.toml'),
    `server = "http://${address}"\n[host."http://${address}"]\n  capabilities = ["pull", "resolve"]\n`,
  );
}

/** A private copy of a registry's storage. Blobs are never changed in place, so they are linked; the rest is copied. */
export async function copyStorage(from: string, to: string): Promise<void> {
  const blobs = 'docker/registry/v2/blobs';
  const isBlobs = join(from, blobs);
  cpSync(from, to, { recursive: true, filter: (path) => path !== isBlobs });
  if (existsSync(isBlobs)) await run('cp', ['-al', isBlobs, join(to, blobs)]);
}
