import {
  type LinuxContainerSecurityContext,
  type LinuxSandboxSecurityContext,
  SupplementalGroupsPolicy as Policy,
} from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { User } from './types.ts';

export interface PasswdEntry {
  name: string;
  uid: number;
  gid: number;
}

export interface GroupEntry {
  name: string;
  gid: number;
  members: string[];
}

export interface UserRequest {
  /** "user", "user:group", names or numbers; "" is root. */
  user: string;
  /** Of the request, on top of what the image says. */
  supplementalGroups: readonly number[];
  /** Do the groups count that the image lists the user in? */
  mergeImageGroups: boolean;
}

/** The highest id: (uid_t)-1 means "none" to the kernel. */
const MAX_ID = 2 ** 32 - 2;

/**
 * What a container's request comes to, the image's USER being the last word to ask. Throws INVALID_REQUEST for a group without a
 * user (the group would silently be dropped), for ids out of range and for a policy CRI does not have.
 */
export function containerUser(context: LinuxContainerSecurityContext | undefined, imageUser: string): UserRequest {
  const policy = context?.supplementalGroupsPolicy ?? Policy.Merge;
  if (policy !== Policy.Merge && policy !== Policy.Strict) {
    throw new SluiceError(
      'INVALID_REQUEST',
      `linux.security_context.supplemental_groups_policy: unknown value ${policy}`,
    );
  }
  return {
    user: userString(context?.runAsUsername ?? '', context?.runAsUser?.value, context?.runAsGroup?.value) || imageUser,
    supplementalGroups: groupIds(context?.supplementalGroups ?? []),
    mergeImageGroups: policy === Policy.Merge,
  };
}

/** The same for a pause container, which takes no groups from its image. */
export function sandboxUser(context: LinuxSandboxSecurityContext | undefined, imageUser: string): UserRequest {
  return {
    user: userString('', context?.runAsUser?.value, context?.runAsGroup?.value) || imageUser,
    supplementalGroups: groupIds(context?.supplementalGroups ?? []),
    mergeImageGroups: false,
  };
}

function userString(username: string, uid: bigint | undefined, gid: bigint | undefined): string {
  if (uid !== undefined) checkId(uid, 'run_as_user');
  if (gid !== undefined) checkId(gid, 'run_as_group');
  const user = username || (uid === undefined ? '' : String(uid));
  if (gid === undefined) return user;
  // Kubelet's and critest's words: a group on its own must fail.
  if (user === '') throw new SluiceError('INVALID_REQUEST', `user group "${gid}" is specified without user`);
  return `${user}:${gid}`;
}

function groupIds(ids: readonly bigint[]): number[] {
  return ids.map((id) => checkId(id, 'supplemental_groups'));
}

function checkId(id: bigint, field: string): number {
  if (id < 0n || id > BigInt(MAX_ID)) {
    throw new SluiceError('INVALID_REQUEST', `linux.security_context.${field}: ${id} is no user or group id`);
  }
  return Number(id);
}

/** Must the image's /etc/passwd and /etc/group be read? Not for "uid:gid" without the image's groups. */
export function needsUserFiles({ user, mergeImageGroups }: UserRequest): boolean {
  if (mergeImageGroups) return true;
  const [name = '', group] = user.split(':', 2);
  if (name === '' && group === undefined) return false;
  return numeric(name) === undefined || group === undefined || numeric(group) === undefined;
}

/**
 * Resolves names against the texts of the image's /etc/passwd and /etc/group ("" where there is none). A numeric user need not exist
 * and then has group 0. The answer's groups are the primary one, then the others in order, each once.
 * Throws INVALID_REQUEST for names that the image does not know.
 */
export function resolveUser(request: UserRequest, passwd: string, group: string): User {
  const colon = request.user.indexOf(':');
  const userPart = colon < 0 ? request.user : request.user.slice(0, colon);
  const groupPart = colon < 0 ? '' : request.user.slice(colon + 1);
  const users = parsePasswd(passwd);
  const groups = parseGroup(group);

  const number = userPart === '' ? 0 : numeric(userPart);
  const entry = users.find(number === undefined ? ({ name }) => name === userPart : ({ uid }) => uid === number);
  const uid = number ?? entry?.uid;
  if (uid === undefined) {
    throw new SluiceError('INVALID_REQUEST', `no users found: the image's /etc/passwd has no "${userPart}"`);
  }
  const gid = groupPart === '' ? (entry?.gid ?? 0) : groupOf(groupPart, groups);
  const name = entry?.name;
  // A group called like the user is its primary one by custom; listing the user there says nothing new.
  const ofImage =
    request.mergeImageGroups && name !== undefined
      ? groups.filter((g) => g.name !== name && g.members.includes(name)).map((g) => g.gid)
      : [];
  const others = new Set([...ofImage, ...request.supplementalGroups]);
  others.delete(gid);
  return { uid, gid, additionalGids: [gid, ...[...others].sort((a, b) => a - b)] };
}

function groupOf(text: string, groups: readonly GroupEntry[]): number {
  const gid = numeric(text) ?? groups.find(({ name }) => name === text)?.gid;
  if (gid === undefined) {
    throw new SluiceError('INVALID_REQUEST', `no groups found: the image's /etc/group has no "${text}"`);
  }
  return gid;
}

/** An id, or undefined for a name. Throws INVALID_REQUEST for a number out of range. */
function numeric(text: string): number | undefined {
  if (!/^\d+$/.test(text)) return undefined;
  return checkId(BigInt(text), 'user or group');
}

/** passwd(5). Lines that are no entries are left out, as the C library does. */
export function parsePasswd(text: string): PasswdEntry[] {
  return entries(text).flatMap(([name = '', , uid = '', gid = '']) =>
    name !== '' && isId(uid) && isId(gid) ? [{ name, uid: Number(uid), gid: Number(gid) }] : [],
  );
}

/** group(5), likewise. */
export function parseGroup(text: string): GroupEntry[] {
  return entries(text).flatMap(([name = '', , gid = '', members = '']) =>
    name !== '' && isId(gid)
      ? [{ name, gid: Number(gid), members: members.split(',').map((member) => member.trim()) }]
      : [],
  );
}

function entries(text: string): string[][] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(':'));
}

function isId(text: string): boolean {
  return /^\d+$/.test(text) && Number(text) <= MAX_ID;
}
