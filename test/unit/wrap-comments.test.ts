import assert from 'node:assert/strict';
import { test } from 'node:test';
import { wrapComments } from '../../scripts/wrap-comments.ts';

const words = (count: number) => Array.from({ length: count }, (_, i) => `word${i}`).join(' ');
const wide = (text: string) => text.split('\n').filter((line) => line.length > 120);

test('paragraphs that are too wide are wrapped, in all three forms of comment', () => {
  const source = [
    `/** ${words(30)} */`,
    'export const a = 1;',
    '',
    '/**',
    ' * Short lines',
    ' * stay as they are.',
    ' *',
    ` * ${words(25)}`,
    ' * and goes on.',
    ' */',
    'function f() {',
    `  // ${words(25)}`,
    '  // and goes on',
    '}',
  ].join('\n');
  const wrapped = wrapComments(source);
  assert.ok(wide(source).length === 3 && wide(wrapped).length === 0, wrapped);
  const plain = (text: string) =>
    text
      .replaceAll(/^ *\*\/|\/\*\*|\*\/|\/\/|^ *\* ?/gm, '')
      .split(/\s+/)
      .join(' ')
      .trim();
  assert.equal(plain(wrapped), plain(source), 'not a word is lost');
  assert.ok(wrapped.includes(' * Short lines\n * stay as they are.\n *\n'));
  assert.equal(wrapComments(wrapped), wrapped);
  const link = wrapComments(`/** ${'x'.repeat(100)} {@link wrapComments} and \`npm run format\`. */`);
  assert.ok(link.includes('\n * {@link wrapComments} and `npm run format`.\n'), link);
});

test('lists, examples, drawings and code keep their lines', () => {
  const source = [
    '/**',
    ` * - ${words(30)}`,
    ' *   and the rest of the item',
    ' *',
    ` *     example ${words(30)}`,
    ` *  a ──▶ b ${words(30)}`,
    ' */',
    `const text = '${words(40)}'; // behind code`,
    'const regex = `',
    '/**',
    `not a comment ${words(30)}`,
    '`;',
  ].join('\n');
  assert.equal(wrapComments(source), source);
});
