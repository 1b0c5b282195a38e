/**
 * The guides under docs/operate as what an operator takes from them: blocks of commands to type and files to write. A
 * block of commands that no test can run has a mark above it, with the reason:
 *
 *     <!-- not run: REASON -->             nowhere
 *     <!-- only in the VM: REASON -->      not on the machine of whoever develops
 *     <!-- not in the VM: REASON -->       there alone
 *     <!-- only in a cluster: REASON -->   by test/rig/vm/kubernetes.ts
 */
import { globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ROOT } from './paths.ts';

export interface GuideBlock {
  /** Name of the page's file. */
  page: string;
  /** Line of the fence, from 1. */
  line: number;
  /** The heading above it. */
  heading: string;
  /** As after the fence: sh, toml, yaml. */
  kind: string;
  /** Without the indentation of a list. */
  text: string;
  mark?: { kind: 'not run' | 'only in the VM' | 'not in the VM' | 'only in a cluster'; reason: string };
}

/** Made from tables of the source, so what stands in them cannot differ from the program. */
const GENERATED = new Set(['cli.md', 'config.md', 'errors.md', 'metrics.md', 'stages.md', 'alerts.md']);

/** Names of the pages that people have written. */
export const GUIDES: readonly string[] = globSync('docs/operate/*.md', { cwd: ROOT })
  .map((file) => basename(file))
  .filter((name) => !GENERATED.has(name))
  .sort();

export const guideText = (page: string): string => readFileSync(join(ROOT, 'docs/operate', page), 'utf8');

/** The fenced blocks of a page, in order. Throws for a fence without an end. */
export function blocksOf(page: string, text = guideText(page)): GuideBlock[] {
  const blocks: GuideBlock[] = [];
  const lines = text.split('\n');
  let heading = '';
  let mark: GuideBlock['mark'];
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? '';
    heading = /^#+ (.+)$/.exec(line)?.[1] ?? heading;
    const marked = /^ *<!-- (not run|only in the VM|not in the VM|only in a cluster): (.*\S) *-->$/.exec(line);
    if (marked) mark = { kind: marked[1] as 'not run', reason: marked[2]?.trim() ?? '' };
    const fence = /^( *)```(\w*)$/.exec(line);
    if (!fence) {
      if (!marked && line.trim() !== '') mark = undefined;
      continue;
    }
    const [, indent = '', kind = ''] = fence;
    const end = lines.indexOf(`${indent}\`\`\``, at + 1);
    if (end < 0) throw new Error(`${page}:${at + 1}: a block without an end`);
    const inside = lines.slice(at + 1, end).map((one) => (one.startsWith(indent) ? one.slice(indent.length) : one));
    blocks.push({ page, line: at + 1, heading, kind, text: `${inside.join('\n')}\n`, mark });
    mark = undefined;
    at = end;
  }
  return blocks;
}

/** What the second column of a table names to look with, a command each. */
export function tableCommands(page: string): string[] {
  return [...guideText(page).matchAll(/^\|[^|]+\| `([^`|]+)` \|/gm)].map(([, command = '']) => command);
}

/** Where a block of TOML belongs: its first line is a comment with the path. */
export const fileOf = ({ text }: GuideBlock): string | undefined => /^# (\/\S+)\n/.exec(text)?.[1];
