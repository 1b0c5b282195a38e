/** A folder on FUSE that can be made to hang, as an NFS mount does whose server is gone (hangfs.c). */
import { existsSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BIN, findProgram } from './paths.ts';
import { run, start, waitFor } from './proc.ts';
import { tidyAtSignal } from './tidy.ts';

const SOURCE = join(import.meta.dirname, 'hangfs.c');
const INCLUDE = '/usr/include/fuse3';

export const SKIP_FUSE: string | false =
  process.getuid?.() !== 0
    ? 'needs root'
    : !existsSync('/dev/fuse')
      ? 'the kernel has no FUSE'
      : existsSync(INCLUDE) && findProgram('gcc')
        ? false
        : 'needs gcc and libfuse3-dev';

export interface HangingFolder extends AsyncDisposable {
  /** The mount point. */
  readonly path: string;
  /** The folder that it shows, which never hangs. */
  readonly behind: string;
  /** From now on whatever touches the mount waits, and cannot be killed. */
  hang(): void;
  /** Lets everything go on. */
  resume(): void;
}

/** Mounts a hanging folder on `<parent>/<name>`. At disposal everything that waits for it fails, and the mount goes. */
export async function hangingFolder(parent: string, name = 'hangs'): Promise<HangingFolder> {
  const program = await build();
  const path = join(parent, name);
  const behind = join(parent, `${name}.behind`);
  const hangFile = join(parent, `${name}.now`);
  mkdirSync(path);
  mkdirSync(behind);
  const device = statSync(path).dev;
  const server = start(program, [behind, hangFile, '-f', path], join(parent, `${name}.log`));
  const end = async () => {
    rmSync(hangFile, { force: true });
    await server.stop(100);
    await run('umount', ['-l', path], { check: false });
  };
  const untidy = tidyAtSignal(end);
  await waitFor('the FUSE mount', 5000, () => statSync(path).dev !== device || undefined);
  return {
    path,
    behind,
    hang: () => writeFileSync(hangFile, ''),
    resume: () => rmSync(hangFile, { force: true }),
    async [Symbol.asyncDispose]() {
      await end();
      untidy();
    },
  };
}

async function build(): Promise<string> {
  const program = join(BIN, 'hangfs');
  if (existsSync(program) && statSync(program).mtimeMs > statSync(SOURCE).mtimeMs) return program;
  mkdirSync(BIN, { recursive: true });
  const fresh = `${program}.${process.pid}`;
  const flags = ['-O1', '-Wall', '-Werror', '-D_FILE_OFFSET_BITS=64', `-I${INCLUDE}`];
  await run('gcc', [...flags, '-o', fresh, SOURCE, '-lfuse3', '-lpthread']);
  renameSync(fresh, program);
  return program;
}
