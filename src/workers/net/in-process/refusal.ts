import { SysError } from '../../../sys/libc.ts';
import { errnoText, NetlinkError } from '../../../sys/netlink.ts';

/**
 * What the reference plugins give for every error without a code of the specification (skel.go: ErrInternal is 999).
 */
export const INTERNAL = 999;

/**
 * A network operation that can't be carried out, in the words of the reference plugin where it has words for it:
 * operators and their scripts know those.
 */
export class Refusal extends Error {
  override readonly name = 'Refusal';
}

/**
 * The cause of a failure as Go prints it: an errno in words, with the call and the path where a file was the object.
 */
export function reasonOf(error: unknown): string {
  if (error instanceof NetlinkError) return error.message;
  if (error instanceof SysError) return errnoText(error.errno);
  const { errno, syscall, path, message } = error as NodeJS.ErrnoException;
  if (typeof errno !== 'number') return message ?? String(error);
  return `${[syscall, path].filter((part) => part !== undefined).join(' ')}: ${errnoText(Math.abs(errno))}`;
}

/** Does `work`, and puts `what` before the reason when it fails. */
export function during<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof Refusal) throw new Refusal(what === '' ? error.message : `${what}: ${error.message}`);
    const reason = reasonOf(error);
    throw new Refusal(what === '' ? reason : `${what}: ${reason}`, { cause: error });
  }
}
