/**
 * What the guides tell an operator to type: every `sluice` command is one, every TOML block is a configuration that the
 * daemon takes, every YAML block is YAML, every unit and file that they name is in the packages. They are run, word for
 * word, by test/rig/guide-scenario.ts.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'smol-toml';
import { parseAllDocuments } from 'yaml';
import { COMMANDS, GROUPS } from '../../src/main/cli/commands.ts';
import { parseLine } from '../../src/main/cli/program.ts';
import { parseConfig } from '../../src/node/config/load.ts';
import {
  blocksOf,
  CLUSTER_GUIDES,
  fileOf,
  GUIDES,
  guideText,
  inlineCommands,
  linesOf,
  NAMED,
  PAGES,
  TYPED,
  tableCommands,
} from '../rig/guides.ts';
import { ROOT } from '../rig/paths.ts';

/** Lines of shell, and code in running text and tables that begins with `sluice `. */
function commands(page: string): string[] {
  const shell = blocksOf(page)
    .filter(({ kind }) => kind === 'sh')
    .flatMap(({ text }) => text.split('\n'));
  const inline = [...guideText(page).matchAll(/`(sluice [^`|]+)`/g)].map(([, code = '']) => code);
  return [...shell, ...inline].map((line) => line.trim().replace(/\s+#.*$/, ''));
}

/** Of a synopsis (`sluice image ls [--json]`) with all that may be left out. */
const words = (line: string) =>
  line
    .replace(/\s*\|\|?.*$|\s*>.*$/, '')
    .replaceAll(/[[\]]|\.\.\./g, '')
    .split(/\s+/)
    .slice(1);

/** Blocks of a kind. */
const texts = (page: string, kind: string) =>
  blocksOf(page)
    .filter((block) => block.kind === kind)
    .map(({ text }) => text);

for (const page of GUIDES) {
  test(`${page}: its commands and configurations are right`, async () => {
    for (const line of commands(page)) {
      if (!line.startsWith('sluice ') || /^sluice completion bash\|/.test(line)) continue;
      const argv = words(line);
      if (argv.join(' ') in GROUPS || COMMANDS.some(({ name }) => name === argv.join(' '))) continue; // a name, as running text has it
      await assert.doesNotReject(parseLine(argv), `${page}: ${line}`);
    }
    for (const block of blocksOf(page)) {
      if (block.kind !== 'toml') continue;
      const file = fileOf(block) ?? '';
      // Blocks for the daemon name their file; others (hosts.toml, a signature policy) are TOML at least.
      if (/^\/etc\/sluice\/(conf\.d\/[\w-]+|config)\.toml$/.test(file))
        assert.doesNotThrow(() => parseConfig(block.text, file), page);
      else assert.doesNotThrow(() => parse(block.text), page);
    }
    for (const text of texts(page, 'yaml')) {
      for (const document of parseAllDocuments(text)) {
        const errors = 'errors' in document ? document.errors : [];
        assert.deepEqual(errors, [], page);
      }
    }
    // A configuration that a guide writes with printf.
    for (const block of texts(page, 'sh')) {
      for (const [, text = '', file = ''] of block.matchAll(/^printf '([^']*)' > (\/etc\/sluice\S+)$/gm))
        assert.doesNotThrow(() => parseConfig(text.replaceAll('\\n', '\n'), file), page);
    }
  });

  test(`${page}: every block of commands is one that a test runs, or says why not`, () => {
    for (const { kind, line, mark } of blocksOf(page)) {
      if (mark) assert.ok(kind === 'sh' && mark.reason.length > 10, `${page}:${line}: a mark, and no reason for it`);
      if (mark?.kind === 'only in a cluster')
        assert.ok(CLUSTER_GUIDES.includes(page), `${page}:${line}: nothing types it`);
    }
    // Commands in a block of another kind would be passed over in silence.
    const programs = /^(?: {4,}|\t)(sluice|systemctl|journalctl|kubectl|kubeadm|crictl|apt|dnf|sysctl|curl) /m;
    assert.doesNotMatch(guideText(page).replaceAll(/^( *)```sh\n.*?^\1```$/gms, ''), programs);
    for (const { kind } of blocksOf(page)) assert.match(kind, /^(sh|toml|yaml|json)$/);
  });
}

test('every command in the text of a page is typed by a scenario, or in the list of those that are not, with a reason', () => {
  const inBlocks = new Set(GUIDES.flatMap((page) => blocksOf(page)).flatMap(linesOf));
  const inTables = new Set(tableCommands('troubleshooting.md'));
  const unused = new Set([...TYPED, ...Object.keys(NAMED)]);
  let found = 0;
  for (const page of PAGES) {
    for (const command of inlineCommands(guideText(page))) {
      found++;
      unused.delete(command);
      const known = inBlocks.has(command) || inTables.has(command) || TYPED.includes(command) || command in NAMED;
      assert.ok(known, `${page}: nothing types \`${command}\`: into TYPED or NAMED of test/rig/guides.ts with it`);
    }
  }
  assert.ok(found > 60, `${found} commands found`);
  assert.deepEqual([...unused], [], 'no page has them any more');
});

test('a command that no scenario types is found, wherever it stands', () => {
  const text =
    'Do `systemctl mask sluiced`.\n\n| a | `sluice pods -a` |\n\n```sh\nsluice ps\n```\n\n<!-- x -->\n`sluice top`\n<!-- /x -->\n';
  assert.deepEqual(inlineCommands(text), ['systemctl mask sluiced', 'sluice pods -a']);
});

test('units that the guides name are in the packages', () => {
  const units = new Set<string>();
  for (const page of GUIDES) {
    for (const line of commands(page)) {
      const match = /^systemctl \S+ (?:--now )?(sluice\S*)/.exec(line);
      if (match?.[1]) units.add(match[1]);
    }
  }
  assert.ok(units.size > 0);
  for (const unit of units) {
    const file = unit.includes('.') ? unit : `${unit}.service`;
    if (file.endsWith('.scope')) continue; // a container's
    assert.ok(existsSync(join(ROOT, 'packaging/systemd', file)), unit);
  }
});
