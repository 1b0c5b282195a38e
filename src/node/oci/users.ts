import {
  type LinuxContainerSecurityContext,
  type LinuxSandboxSecurityContext,
  SupplementalGroupsPolicy as Policy,
} from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { User } from './types.ts';

interface PasswdEntry {
  name: string;
  uid: number;
  gid: number;
}

interface GroupEntry {
  name: string;
  gid: number;
  members: string[];
}

interface UserRequest {
  /** "user" or "user:group", each a name or a number; "" is root. */
  user: string;
  /** Groups of the request, in addition to those of the image. */
  supplementalGroups: readonly number[];
  /** Whether the groups that list the user in the image's /etc/group are added. */
  mergeImageGroups: boolean;
}

/** The highest id; (uid_t)-1 means "no change" to the kernel. */
const MAX_ID = 2 ** 32 - 2;

/**
 * The user of a container: that of the request, else `imageUser` (USER of the image).
 * Throws INVALID_REQUEST for a group without a user (the group would be ignored), for ids out of range and for an
 * unknown policy.
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

/** The user of a pause container, which gets no groups from its image. Throws as {@link containerUser} does. */
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
  // critest requires the error and looks for this text.
  if (user === '') throw new SluiceError('INVALID_REQUEST', `user group "${gid}" is specified without user`);
  return `${user}:${gid}`;
}

function groupIds(ids: readonly bigint[]): number[] {
  return ids.map((id) => checkId(id, 'supplemental_groups'));
}

function checkId(id: bigint, field: string): number {
  if (id < 0n || id > BigInt(MAX_ID)) {
    throw new SluiceError('INVALID_REQUEST', `linux.security_context.${field}: ${id} is not a valid user or group id`);
  }
  return Number(id);
}

/**
 * Whether {@link resolveUser} needs the image's /etc/passwd and /etc/group: not for "uid:gid" without the image's
 * groups.
 */
export function needsUserFiles({ user, mergeImageGroups }: UserRequest): boolean {
  if (mergeImageGroups) return true;
  const [name = '', group] = user.split(':', 2);
  if (name === '' && group === undefined) return false;
  return numeric(name) === undefined || group === undefined || numeric(group) === undefined;
}

/**
 * Resolves names with the texts of the image's /etc/passwd and /etc/group ("" when there is no such file). A numeric
 * user need not be in /etc/passwd; its group is then 0. additionalGids are the primary group, then the others in rising
 * order, without duplicates.
 * Throws INVALID_REQUEST for a name that the image does not define.
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
  // By convention a group with the user's name is its primary group, so it is not counted as a further one.
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

/** A numeric id; undefined for a name. Throws INVALID_REQUEST for a number out of range. */
function numeric(text: string): number | undefined {
  if (!/^\d+$/.test(text)) return undefined;
  return checkId(BigInt(text), 'user or group');
}

/** Parses passwd(5). Malformed lines are skipped, as in the C library. */
export function parsePasswd(text: string): PasswdEntry[] {
  return entries(text).flatMap(([name = '', , uid = '', gid = '']) =>
    name !== '' && isId(uid) && isId(gid) ? [{ name, uid: Number(uid), gid: Number(gid) }] : [],
  );
}

/** Parses group(5). Malformed lines are skipped, as in the C library. */
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
