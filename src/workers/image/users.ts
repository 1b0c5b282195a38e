/**
 * Who a process is: names of users and groups, looked up in the image's /etc/passwd and /etc/group. An image may have
 * made these files to do harm, so they are read and parsed in a worker, line by line and within bounds; the main thread
 * gets the ids alone.
 */
import { SluiceError } from '../../errors.ts';
import { invalid } from './invalid.ts';

export interface UserRequest {
  /** "user" or "user:group", each a name or a number; "" is root. */
  user: string;
  /** Groups of the request, in addition to those of the image. */
  supplementalGroups: readonly number[];
  /** Whether the groups that list the user in the image's /etc/group are added. */
  mergeImageGroups: boolean;
}

/** The user as the runtime wants it (process.user of the spec). */
export interface FoundUser {
  uid: number;
  gid: number;
  /** The primary group, then the others in rising order, each once. */
  additionalGids: number[];
}

/** The highest id; (uid_t)-1 means "no change" to the kernel. */
export const MAX_ID = 2 ** 32 - 2;
/** Lines of one file. */
export const MAX_USER_LINES = 100_000;
/** Groups of one process: NGROUPS_MAX of Linux, above which setgroups(2) fails. */
const MAX_GROUPS = 65_536;

/**
 * Resolves names with the texts of the image's /etc/passwd and /etc/group ("" when there is no such file). A numeric
 * user need not be in /etc/passwd; its group is then 0. A group of /etc/group that lists the user counts whatever its
 * name (getgrouplist(3)). Throws INVALID_REQUEST for a name that the image does not define, and IMAGE_INVALID for more
 * lines or groups than the bounds.
 */
export function resolveUser(request: UserRequest, passwd: string, group: string): FoundUser {
  const colon = request.user.indexOf(':');
  const userPart = colon < 0 ? request.user : request.user.slice(0, colon);
  const groupPart = colon < 0 ? '' : request.user.slice(colon + 1);

  const number = userPart === '' ? 0 : numericId(userPart);
  const entry = passwdEntries(passwd).find(
    number === undefined ? ({ name }) => name === userPart : ({ uid }) => uid === number,
  );
  const uid = number ?? entry?.uid;
  if (uid === undefined) {
    throw new SluiceError('INVALID_REQUEST', `no users found: the image's /etc/passwd has no "${userPart}"`);
  }
  let gid = groupPart === '' ? (entry?.gid ?? 0) : numericId(groupPart);
  const name = request.mergeImageGroups ? entry?.name : undefined;
  const others = new Set(request.supplementalGroups);
  if (gid === undefined || name !== undefined) {
    for (const each of groupEntries(group)) {
      if (gid === undefined && each.name === groupPart) gid = each.gid;
      if (name !== undefined && lists(each.members, name)) others.add(each.gid);
      if (others.size > MAX_GROUPS)
        throw invalid(`/etc/group of the image puts "${name}" into more than ${MAX_GROUPS} groups`);
    }
  }
  if (gid === undefined) {
    throw new SluiceError('INVALID_REQUEST', `no groups found: the image's /etc/group has no "${groupPart}"`);
  }
  others.delete(gid);
  return { uid, gid, additionalGids: [gid, ...[...others].sort((a, b) => a - b)] };
}

/** The entries of passwd(5). Malformed lines are skipped, as in the C library. */
export function* passwdEntries(text: string): Generator<{ name: string; uid: number; gid: number }> {
  for (const line of lines(text, '/etc/passwd')) {
    const [name = '', , uid = '', gid = ''] = line.split(':', 4);
    if (name !== '' && isId(uid) && isId(gid)) yield { name, uid: Number(uid), gid: Number(gid) };
  }
}

/** The entries of group(5), `members` as it is written. Malformed lines are skipped, as in the C library. */
export function* groupEntries(text: string): Generator<{ name: string; gid: number; members: string }> {
  for (const line of lines(text, '/etc/group')) {
    const [name = '', , gid = '', members = ''] = line.split(':', 4);
    if (name !== '' && isId(gid)) yield { name, gid: Number(gid), members };
  }
}

/** A numeric id; undefined for a name. Throws INVALID_REQUEST for a number out of range. */
export function numericId(text: string): number | undefined {
  if (!/^\d+$/.test(text)) return undefined;
  if (!isId(text)) throw new SluiceError('INVALID_REQUEST', `"${shortened(text)}" is not a valid user or group id`);
  return Number(text);
}

function* lines(text: string, file: string): Generator<string> {
  let count = 0;
  for (let at = 0; at < text.length; ) {
    const end = text.indexOf('\n', at);
    const line = text.slice(at, end < 0 ? undefined : end).trim();
    at = end < 0 ? text.length : end + 1;
    if (++count > MAX_USER_LINES) throw invalid(`${file} of the image has more than ${MAX_USER_LINES} lines`);
    if (line !== '' && !line.startsWith('#')) yield line;
  }
}

/** Is `name` in a list with commas and spaces? Most lists do not contain the text at all, and are not split. */
function lists(members: string, name: string): boolean {
  return members.includes(name) && members.split(',').some((member) => member.trim() === name);
}

function isId(text: string): boolean {
  return /^\d+$/.test(text) && Number(text) <= MAX_ID;
}

const shortened = (text: string) => (text.length > 40 ? `${text.slice(0, 40)}…` : text);
