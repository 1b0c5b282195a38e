import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SupplementalGroupsPolicy as Policy } from '../../proto/gen/cri.ts';
import { containerUser, needsUserFiles, sandboxUser } from '../../src/node/oci/users.ts';
import { groupEntries, passwdEntries, resolveUser } from '../../src/workers/image/users.ts';
import { containerSecurity, podSecurity } from '../rig/messages.ts';

const PASSWD = `root:x:0:0:root:/root:/bin/sh
# a comment
app:x:1000:1000::/app:/bin/sh
lonely:x:1001:777::/:
broken:x:abc:1::/:
+nis

web:x:33:33:www:/var/www:/usr/sbin/nologin`;
const GROUP = `root:x:0:root
bin:x:1:root,app
app:x:1000:app
staff:x:50: app , web
web:x:33:
video:x:44:app,root
short
bad:x:-1:app`;

function resolve(user: string, supplementalGroups: number[] = [], mergeImageGroups = true) {
  const { uid, gid, additionalGids } = resolveUser({ user, supplementalGroups, mergeImageGroups }, PASSWD, GROUP);
  return [uid, gid, additionalGids];
}

describe('the user of a container', () => {
  test('by name, by number, with and without a group', () => {
    assert.deepEqual(resolve(''), [0, 0, [0, 1, 44]]);
    assert.deepEqual(resolve('app'), [1000, 1000, [1000, 1, 44, 50]]);
    assert.deepEqual(resolve('1000'), [1000, 1000, [1000, 1, 44, 50]]);
    // The group `app` lists the user, so it counts although it has the user's name: it is not the primary group here.
    assert.deepEqual(resolve('app:web'), [1000, 33, [33, 1, 44, 50, 1000]]);
    assert.deepEqual(resolve('1000:44'), [1000, 44, [44, 1, 50, 1000]]);
    assert.deepEqual(resolve('lonely'), [1001, 777, [777]]);
    assert.deepEqual(resolve(':50'), [0, 50, [50, 0, 1, 44]]);
    assert.deepEqual(resolve('app:'), [1000, 1000, [1000, 1, 44, 50]]);
  });

  test('an unknown uid is valid and has group 0', () => {
    assert.deepEqual(resolve('4242'), [4242, 0, [0]]);
    assert.deepEqual(resolve('4242:4343'), [4242, 4343, [4343]]);
  });

  test('groups: sorted, each once, the primary one first; Strict leaves the image’s out', () => {
    assert.deepEqual(resolve('app', [900, 44, 2]), [1000, 1000, [1000, 1, 2, 44, 50, 900]]);
    assert.deepEqual(resolve('app', [900, 1000, 2, 2], false), [1000, 1000, [1000, 2, 900]]);
    assert.deepEqual(resolve('app', [], false), [1000, 1000, [1000]]);
  });

  test('unknown names and ids out of range are refused', () => {
    const invalid = (message: RegExp) => ({ code: 'INVALID_REQUEST', message });
    assert.throws(() => resolve('nobody'), invalid(/^no users found.*"nobody"/));
    assert.throws(() => resolve('broken'), invalid(/^no users found/));
    assert.throws(() => resolve('app:wheel'), invalid(/^no groups found.*"wheel"/));
    assert.throws(() => resolve('bad:bad'), invalid(/^no users found/));
    assert.throws(() => resolve('4294967295'), invalid(/is not a valid user or group id/));
    assert.throws(() => resolve('99999999999999999999'), invalid(/is not a valid user or group id/));
  });

  test('an image without the files', () => {
    const request = { user: '5:6', supplementalGroups: [], mergeImageGroups: true };
    assert.deepEqual(resolveUser(request, '', ''), { uid: 5, gid: 6, additionalGids: [6] });
    assert.throws(() => resolveUser({ ...request, user: 'app' }, '', ''), { code: 'INVALID_REQUEST' });
  });

  test('malformed lines are skipped', () => {
    assert.deepEqual(
      [...passwdEntries(PASSWD)].map(({ name }) => name),
      ['root', 'app', 'lonely', 'web'],
    );
    assert.deepEqual(
      [...groupEntries(GROUP)].map(({ name }) => name),
      ['root', 'bin', 'app', 'staff', 'web', 'video'],
    );
    assert.deepEqual([...passwdEntries('a:x:1:2\r\n')], [{ name: 'a', uid: 1, gid: 2 }]);
  });
});

describe('the user of a request', () => {
  const value = (n: bigint) => ({ value: n });

  test('user name before uid before the image’s user', () => {
    const user = (over: Parameters<typeof containerSecurity>[0], image = 'img:grp') =>
      containerUser(containerSecurity(over), image).user;
    assert.equal(user({ runAsUsername: 'u', runAsUser: value(5n) }), 'u');
    assert.equal(user({ runAsUser: value(0n) }), '0');
    assert.equal(user({ runAsUser: value(5n), runAsGroup: value(6n) }), '5:6');
    assert.equal(user({ runAsUsername: 'u', runAsGroup: value(0n) }), 'u:0');
    assert.equal(user({}), 'img:grp');
    assert.equal(containerUser(undefined, '').user, '');
  });

  test('a group without a user', () => {
    const error = { code: 'INVALID_REQUEST', message: 'user group "1234" is specified without user' };
    assert.throws(() => containerUser(containerSecurity({ runAsGroup: value(1234n) }), 'app'), error);
    assert.throws(() => sandboxUser(podSecurity({ runAsGroup: value(1234n) }), 'app'), error);
  });

  test('ids out of range, unknown policies', () => {
    assert.throws(() => containerUser(containerSecurity({ runAsUser: value(-1n) }), ''), {
      code: 'INVALID_REQUEST',
      message: /run_as_user: -1/,
    });
    assert.throws(() => containerUser(containerSecurity({ supplementalGroups: [1n << 40n] }), ''), {
      code: 'INVALID_REQUEST',
      message: /supplemental_groups/,
    });
    assert.throws(() => containerUser(containerSecurity({ supplementalGroupsPolicy: 9 as Policy }), ''), {
      code: 'INVALID_REQUEST',
      message: /policy/,
    });
  });

  test('group policies; a pause container has no groups of its image', () => {
    assert.equal(containerUser(containerSecurity(), '').mergeImageGroups, true);
    assert.equal(
      containerUser(containerSecurity({ supplementalGroupsPolicy: Policy.Strict }), '').mergeImageGroups,
      false,
    );
    assert.deepEqual(sandboxUser(podSecurity({ runAsUser: value(7n), supplementalGroups: [3n] }), 'x'), {
      user: '7',
      supplementalGroups: [3],
      mergeImageGroups: false,
    });
  });

  test('passwd and group are read only for look-ups', () => {
    const needs = (user: string, mergeImageGroups = false) =>
      needsUserFiles({ user, supplementalGroups: [], mergeImageGroups });
    assert.equal(needs(''), false);
    assert.equal(needs('1:2'), false);
    assert.equal(needs('1'), true); // its group is in passwd
    assert.equal(needs('u:2'), true);
    assert.equal(needs('1:g'), true);
    assert.equal(needs('1:2', true), true);
  });
});
