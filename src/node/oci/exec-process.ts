import { SluiceError } from '../../errors.ts';
import { envList, putEnv } from './args.ts';
import type { Process, Spec } from './types.ts';

export interface ExecRequest {
  cmd: readonly string[];
  tty: boolean;
}

/**
 * The `process` of an exec: the container's own with another command line, so user, capabilities, environment, working
 * directory and confinement are the same. With a terminal, TERM is xterm unless the container sets it.
 * Throws INVALID_REQUEST for an empty command and for NUL bytes.
 */
export function buildExecProcess(spec: Pick<Spec, 'process'>, { cmd, tty }: ExecRequest): Process {
  if (cmd.length === 0 || cmd.some((arg) => arg.includes('\0'))) {
    throw new SluiceError('INVALID_REQUEST', `cmd: ${cmd.length === 0 ? 'is empty' : 'contains a NUL byte'}`);
  }
  const first = structuredClone(spec.process);
  const env = new Map<string, string>();
  putEnv(env, first.env);
  if (tty && !env.has('TERM')) env.set('TERM', 'xterm');
  return { ...first, terminal: tty, args: [...cmd], env: envList(env) };
}
