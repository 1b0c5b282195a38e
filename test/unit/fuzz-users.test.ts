/** Users and groups of an image: its /etc/passwd and /etc/group may hold anything. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SluiceError } from '../../src/errors.ts';
import { MAX_USER_LINES, resolveUser, type UserRequest } from '../../src/workers/image/users.ts';
import { holds } from '../rig/fuzz.ts';

const word = fc.constantFrom(
  'root',
  'app',
  'a',
  '',
  'x',
  '0',
  '1000',
  '50',
  '4294967294',
  '4294967295',
  '-1',
  ' 7 ',
  '#',
  '+nis',
  'é',
  '__proto__',
  '1e3',
  '0x10',
);
const members = fc.array(word, { maxLength: 4 }).map((names) => names.join(','));
const line = fc.array(fc.oneof(word, members), { maxLength: 6 }).map((fields) => fields.join(':'));
const file = fc
  .array(fc.oneof({ weight: 4, arbitrary: line }, { weight: 1, arbitrary: fc.string() }), { maxLength: 12 })
  .map((lines) => lines.join('\n'));
const request: fc.Arbitrary<UserRequest> = fc.record({
  user: fc.oneof(
    word,
    fc.tuple(word, word).map((both) => both.join(':')),
    fc.string({ maxLength: 12 }),
  ),
  supplementalGroups: fc.array(fc.integer({ min: 0, max: 2 ** 32 - 2 }), { maxLength: 4 }),
  mergeImageGroups: fc.boolean(),
});

test('any files give ids in range, or a refusal', () =>
  holds(
    fc.property(request, file, file, (wanted, passwd, group) => {
      try {
        const { uid, gid, additionalGids } = resolveUser(wanted, passwd, group);
        for (const id of [uid, gid, ...additionalGids]) assert.ok(Number.isInteger(id) && id >= 0 && id < 2 ** 32 - 1);
        assert.equal(additionalGids[0], gid);
        assert.equal(new Set(additionalGids).size, additionalGids.length);
        for (const id of wanted.supplementalGroups) assert.ok(additionalGids.includes(id));
      } catch (error) {
        assert.ok(error instanceof SluiceError, String(error));
        assert.equal(error.code, 'INVALID_REQUEST');
      }
    }),
  ));

test('the answer is that of a plain look-up in all lines', () =>
  holds(
    fc.property(request, file, file, (wanted, passwd, group) => {
      let found: unknown;
      try {
        found = resolveUser(wanted, passwd, group);
      } catch (error) {
        found = (error as SluiceError).code;
      }
      assert.deepEqual(found, plain(wanted, passwd, group));
    }),
  ));

/** The rules once more, in the simplest words and with everything in memory. */
function plain({ user, supplementalGroups, mergeImageGroups }: UserRequest, passwd: string, group: string): unknown {
  const rows = (text: string) =>
    text
      .split('\n')
      .map((each) => each.trim())
      .filter((each) => each !== '' && !each.startsWith('#'))
      .map((each) => each.split(':'));
  const number = (text = '') => (/^\d+$/.test(text) && Number(text) < 2 ** 32 - 1 ? Number(text) : undefined);
  const outOfRange = (text: string) => /^\d+$/.test(text) && number(text) === undefined;
  const users = rows(passwd).filter(
    ([name, , uid, gid]) => name && number(uid) !== undefined && number(gid) !== undefined,
  );
  const groups = rows(group).filter(([name, , gid]) => name && number(gid) !== undefined);
  const colon = user.indexOf(':');
  const name = colon < 0 ? user : user.slice(0, colon);
  const groupName = colon < 0 ? '' : user.slice(colon + 1);
  if (outOfRange(name) || outOfRange(groupName)) return 'INVALID_REQUEST';
  const id = name === '' ? 0 : number(name);
  const entry = users.find((row) => (id === undefined ? row[0] === name : number(row[2]) === id));
  const uid = id ?? number(entry?.[2]);
  const gid =
    groupName === ''
      ? (number(entry?.[3]) ?? 0)
      : (number(groupName) ?? number(groups.find((row) => row[0] === groupName)?.[2]));
  if (uid === undefined || gid === undefined) return 'INVALID_REQUEST';
  const lists = (row: string[]) => (row[3] ?? '').split(',').some((member) => member.trim() === entry?.[0]);
  const own = mergeImageGroups && entry ? groups.filter(lists).map((row) => Number(row[2])) : [];
  const others = [...new Set([...own, ...supplementalGroups])].filter((each) => each !== gid).sort((a, b) => a - b);
  return { uid, gid, additionalGids: [gid, ...others] };
}

test('files at the bounds take the time of a glance; beyond them they are refused', () => {
  const wanted = { user: 'last', supplementalGroups: [], mergeImageGroups: true };
  const passwd = `${'a:x:1:1::/:\n'.repeat(MAX_USER_LINES - 1)}last:x:5:6::/:`;
  const group = `${'g:x:7:a,b,c\n'.repeat(MAX_USER_LINES - 1)}h:x:8:${'b,'.repeat(500_000)}last`;
  const began = performance.now();
  assert.deepEqual(resolveUser(wanted, passwd, group), { uid: 5, gid: 6, additionalGids: [6, 8] });
  assert.ok(performance.now() - began < 2000, `${performance.now() - began} ms`);
  const tooMany = { code: 'IMAGE_INVALID', message: /more than 100000 lines/ };
  assert.throws(() => resolveUser(wanted, '\n'.repeat(MAX_USER_LINES + 1), ''), tooMany);
  assert.throws(() => resolveUser(wanted, passwd, 'x\n'.repeat(MAX_USER_LINES + 1)), tooMany);
  const groups = Array.from({ length: 70_000 }, (_, gid) => `g:x:${gid}:last`).join('\n');
  assert.throws(() => resolveUser(wanted, passwd, groups), {
    code: 'IMAGE_INVALID',
    message: /more than 65536 groups/,
  });
});
