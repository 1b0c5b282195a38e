import type { ContainerConfig } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageConfig } from './image-config.ts';

export const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * `process.args`. A command replaces the image's Entrypoint and Cmd; arguments without a command replace its Cmd. An
 * Entrypoint of [""] counts as none (images use it to reset an inherited one). Throws INVALID_REQUEST when the result
 * is empty or contains a NUL byte.
 */
export function processArgs(config: Pick<ContainerConfig, 'command' | 'args'>, image: ImageConfig): string[] {
  let { command, args } = config;
  if (command.length === 0) {
    if (args.length === 0) args = [...(image.Cmd ?? [])];
    const entrypoint = image.Entrypoint ?? [];
    if (entrypoint.length !== 1 || entrypoint[0] !== '') command = [...entrypoint];
  }
  const all = [...command, ...args];
  if (all.length === 0) {
    throw new SluiceError('INVALID_REQUEST', 'no command specified: neither the container nor the image has one');
  }
  for (const arg of all) refuseNul(arg, 'command or args');
  return all;
}

/**
 * `process.env`: PATH, TERM for terminals, HOSTNAME, then the variables of the image, then those of the request. A
 * later value replaces an earlier one of the same name; an entry of the image without "=" removes the variable.
 */
export function processEnv(
  config: Pick<ContainerConfig, 'envs' | 'tty'>,
  image: ImageConfig,
  hostname: string,
): string[] {
  const env = new Map([['PATH', DEFAULT_PATH]]);
  if (config.tty) env.set('TERM', 'xterm');
  env.set('HOSTNAME', hostname);
  putEnv(env, image.Env ?? []);
  for (const { key, value } of config.envs) env.set(key, Buffer.from(value).toString());
  return envList(env);
}

/** Applies "NAME=value" entries to `env`, in order; an entry without "=" removes the variable. */
export function putEnv(env: Map<string, string>, entries: readonly string[]): void {
  for (const entry of entries) {
    const equals = entry.indexOf('=', 1); // from 1: a name may begin with "="
    if (equals < 0) env.delete(entry);
    else env.set(entry.slice(0, equals), entry.slice(equals + 1));
  }
}

/**
 * The variables as "NAME=value". Throws INVALID_REQUEST for an empty name and for NUL bytes, which execve(2) cannot
 * pass.
 */
export function envList(env: ReadonlyMap<string, string>): string[] {
  return Array.from(env, ([name, value]) => {
    if (name === '') throw new SluiceError('INVALID_REQUEST', 'envs: a variable without a name');
    refuseNul(name + value, `envs: ${name}`);
    return `${name}=${value}`;
  });
}

function refuseNul(text: string, where: string): void {
  if (text.includes('\0')) throw new SluiceError('INVALID_REQUEST', `${where}: contains a NUL byte`);
}
