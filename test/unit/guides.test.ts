/**
 * What the guides tell an operator to type: every `sluice` command is one, every TOML block is a configuration that the
 * daemon takes, every YAML block is YAML, every unit and file that they name is in the packages. What belongs to others
 * (kubectl, kubeadm, apt) is not run here.
 */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'smol-toml';
import { parseAllDocuments } from 'yaml';
import { COMMANDS, GROUPS } from '../../src/main/cli/commands.ts';
import { parseLine } from '../../src/main/cli/program.ts';
import { parseConfig } from '../../src/node/config/load.ts';
import { ROOT } from '../rig/paths.ts';

const PAGES = globSync('docs/operate/*.md', { cwd: ROOT });
const GENERATED = ['cli.md', 'config.md', 'errors.md', 'metrics.md', 'stages.md', 'alerts.md'];

/** Fenced blocks of a kind, without the indentation of a list. */
function blocks(page: string, kind: string): string[] {
  const text = readFileSync(join(ROOT, page), 'utf8');
  return [...text.matchAll(new RegExp(`^( *)\`\`\`${kind}\\n(.*?)^ *\`\`\`$`, 'gms'))].map(
    ([, indent = '', body = '']) => body.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
  );
}

/** Lines of shell, and code in running text and tables that begins with `sluice `. */
function commands(page: string): string[] {
  const text = readFileSync(join(ROOT, page), 'utf8');
  const shell = [...blocks(page, 'sh'), ...text.matchAll(/(?:^ {4}\S.*\n?)+/gm).map(([block]) => block)].flatMap(
    (block) => block.split('\n'),
  );
  const inline = [...text.matchAll(/`(sluice [^`|]+)`/g)].map(([, code = '']) => code);
  return [...shell, ...inline].map((line) =>
    line
      .trim()
      .replace(/\s+#.*$/, '')
      .replace(/^bin\//, ''),
  );
}

/** Of a synopsis (`sluice image ls [--json]`) with all that may be left out. */
const words = (line: string) =>
  line
    .replace(/\s*\|\|?.*$|\s*>.*$/, '')
    .replaceAll(/[[\]]|\.\.\./g, '')
    .split(/\s+/)
    .slice(1);

for (const page of PAGES.filter((one) => !GENERATED.includes(basename(one)))) {
  test(`${basename(page)}: its commands and configurations are right`, async () => {
    for (const line of commands(page)) {
      if (!line.startsWith('sluice ') || /^sluice completion bash\|/.test(line)) continue;
      const argv = words(line);
      if (argv.join(' ') in GROUPS || COMMANDS.some(({ name }) => name === argv.join(' '))) continue; // a name, as running text has it
      await assert.doesNotReject(parseLine(argv), `${page}: ${line}`);
    }
    for (const text of blocks(page, 'toml')) {
      const file = /^# (\S+)/.exec(text)?.[1] ?? '';
      // Blocks for the daemon name their file; others (hosts.toml, a signature policy) are TOML at least.
      if (/^\/etc\/sluice\/(conf\.d\/[\w-]+|config)\.toml$/.test(file))
        assert.doesNotThrow(() => parseConfig(text, file), page);
      else assert.doesNotThrow(() => parse(text), page);
    }
    for (const text of blocks(page, 'yaml')) {
      for (const document of parseAllDocuments(text)) {
        const errors = 'errors' in document ? document.errors : [];
        assert.deepEqual(errors, [], page);
      }
    }
    // A configuration that a guide writes with printf.
    for (const block of blocks(page, 'sh')) {
      for (const [, text = '', file = ''] of block.matchAll(/^printf '([^']*)' > (\/etc\/sluice\S+)$/gm))
        assert.doesNotThrow(() => parseConfig(text.replaceAll('\\n', '\n'), file), page);
    }
  });
}

test('units that the guides name are in the packages', () => {
  const units = new Set<string>();
  for (const page of PAGES) {
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
