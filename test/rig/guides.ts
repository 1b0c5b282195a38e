/**
 * The guides under docs/operate as what an operator takes from them: blocks of commands to type and files to write. A
 * block of commands that no test can run has a mark above it, with the reason:
 *
 *     <!-- not run: REASON -->             nowhere
 *     <!-- only in the VM: REASON -->      not on the machine of whoever develops
 *     <!-- not in the VM: REASON -->       there alone
 *     <!-- only in a cluster: REASON -->   by test/rig/kubernetes-scenario.ts
 *
 * Commands in running text and in tables are typed as well (TYPED), or only named there (NAMED).
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

/** Those whose blocks for a cluster test/rig/kubernetes-scenario.ts types. */
export const CLUSTER_GUIDES = ['from-containerd.md', 'install.md', 'kubeadm.md'];

/** All pages for operators, those that are made from tables too. */
export const PAGES: readonly string[] = globSync('docs/operate/*.md', { cwd: ROOT })
  .map((file) => basename(file))
  .sort();

/** Commands of running text that test/rig/guide-scenario.ts types besides the blocks of the guides. */
export const TYPED: readonly string[] = [
  'sluice trace',
  'sluice trace <pod>',
  'sluice config default',
  'sluice config diff --running',
  'sluice doctor --leaks',
  'sluice log-level LEVEL',
  'sluice network check',
  'crictl info',
  'crictl stats',
  'crictl -r unix:///run/sluice/sluice.sock info',
  'df -i',
  'systemctl daemon-reload',
  'systemd-analyze security sluiced',
];

const NAME = 'the text names it and asks nobody to type it';
const CHECKOUT = 'for developers, in a checkout';
/** Commands of running text that nothing types, and why. */
export const NAMED: Readonly<Record<string, string>> = {
  'crictl --creds': NAME,
  'crictl inspectp': NAME,
  'crictl rmi': NAME,
  'docker save': NAME,
  'k3s crictl': NAME,
  'kill -9': NAME,
  'kubectl cp': NAME,
  'kubectl exec': NAME,
  'kubeadm init': NAME,
  'runc create': NAME,
  'runc start': NAME,
  'sluice completion bash|zsh|fish': 'a synopsis; test/unit/cli.test.ts has each of them',
  'sluice exec': NAME,
  'sluice image': NAME,
  'sluice image pull': NAME,
  'sluice network remove': 'for a node that Sluice leaves: the removal of the package types it',
  'kubectl describe pod': 'test/rig/kubernetes-scenario.ts types it, with a pod',
  'grep <path> /proc/*/mountinfo': 'processes that end meanwhile decide over its status',
  'grep -r containerd.sock /etc/default /etc/systemd /var/lib/kubelet/*.*': 'for a node that was not made with kubeadm',
  'nft delete table ip sluice_<network>':
    'of a network that is gone: test/integration/network-in-process.test.ts does it',
  'nft flush ruleset': 'it takes away the rules of others',
  'systemctl edit sluiced.socket': 'it opens an editor',
  'systemctl status sluice-<id>.scope': 'a container’s: test/integration/systemd.test.ts looks at scopes',
  'systemctl stop NAME.slice': 'a slice that the reader has named',
  'npm run bench:observe': CHECKOUT,
  'npm run conformance -- --vm': CHECKOUT,
  'npm run package': CHECKOUT,
  'npm run kubernetes': CHECKOUT,
  'npm run kubernetes -- kubelet': CHECKOUT,
  'node test/rig/vm/kubernetes.ts cluster': CHECKOUT,
  'node test/rig/vm/kubernetes.ts kubelet': CHECKOUT,
  'node test/rig/vm/run.ts': CHECKOUT,
};

const PROGRAMS =
  'sluice|systemctl|systemd-analyze|journalctl|kubectl|kubeadm|crictl|apt|dnf|dpkg|sysctl|curl|df|docker|dmesg|k3s|runc|crun|sqlite3|node|npm|ip|iptables|nft|kill|modprobe|useradd|grep|cat|rm|mv|cp|tar|containerd|ctr|lintian';
const INLINE = new RegExp(`\`((?:${PROGRAMS}) [^\`]+)\``, 'g');

/**
 * Commands with arguments in a page's running text and its tables; what is made from the table of commands is left out.
 */
export function inlineCommands(text: string): string[] {
  const prose = text
    .replaceAll(/^( *)```\w*\n[\s\S]*?^\1```$/gm, '')
    .replaceAll(/<!-- (\w+) -->[\s\S]*?<!-- \/\1 -->/g, '');
  return [...prose.matchAll(INLINE)].map(([, command = '']) => command.replaceAll(/\s+/g, ' ').replaceAll('\\|', '|'));
}

/** The commands of a block, one a line, without comments and the texts that it writes into files. */
export function linesOf({ text }: GuideBlock): string[] {
  return text
    .replaceAll(/<<(\w+)\n[\s\S]*?^\1$/gm, '')
    .split('\n')
    .map((line) => line.replace(/\s+#.*$/, '').trim())
    .filter((line) => line !== '');
}

/** What the second column of a table names to look with, a command each. */
export function tableCommands(page: string): string[] {
  return [...guideText(page).matchAll(/^\|[^|]+\| `([^`|]+)` \|/gm)].map(([, command = '']) => command);
}

/** Where a block of TOML belongs: its first line is a comment with the path. */
export const fileOf = ({ text }: GuideBlock): string | undefined => /^# (\/\S+)\n/.exec(text)?.[1];
