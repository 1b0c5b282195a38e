/** The manual pages, made from the table of commands and the table of configuration keys. */
import { type Command, EXIT, optionsOf } from '../../src/main/cli/command.ts';
import { COMMANDS } from '../../src/main/cli/commands.ts';
import { syntax } from '../../src/main/cli/program.ts';
import { type Key, type KeyValue, SCHEMA, SECTIONS } from '../../src/node/config/schema.ts';

interface Page {
  /** File below usr/share/man. */
  path: string;
  text: string;
}

/** sluice(1), sluiced(8) and sluice.toml(5). `epoch`: seconds since 1970 that date them. */
export function manualPages(version: string, epoch: number): Page[] {
  const date = new Date(epoch * 1000).toISOString().slice(0, 10);
  const head = (name: string, section: number) =>
    `.TH ${name.toUpperCase()} ${section} "${date}" "Sluice ${version}" "Sluice"\n.nh\n.ad l\n`;
  return [
    { path: 'man1/sluice.1', text: head('sluice', 1) + sluice() },
    { path: 'man5/sluice.toml.5', text: head('sluice.toml', 5) + configuration() },
    { path: 'man8/sluiced.8', text: head('sluiced', 8) + sluiced() },
  ];
}

const MARKS: Record<string, string> = {
  '\\': '\\e',
  '-': '\\-',
  '’': '\\(cq',
  '“': '\\(lq',
  '”': '\\(rq',
  '…': '...',
  '×': '\\(mu',
  '–': '\\(en',
  '░': '\\[u2591]',
  '█': '\\[u2588]',
  '▒': '\\[u2592]',
};

/** Text as roff has it: no line begins with a control character, and nothing is outside ASCII. */
function roff(text: string): string {
  const marked = text.replaceAll(/[\\\-’“”…×–░█▒]/g, (mark) => MARKS[mark] ?? mark);
  return marked.replaceAll(/^(['.])/gm, '\\&$1');
}

const bold = (text: string) => `\\fB${roff(text)}\\fR`;
const section = (title: string, ...body: string[]) => `.SH ${title}\n${body.join('\n')}\n`;
const item = (term: string, text: string) => `.TP\n${term}\n${roff(text)}`;

function sluice(): string {
  return [
    section('NAME', 'sluice \\- look at and into a running sluiced, and check its configuration'),
    section('SYNOPSIS', '.B sluice\n.I command\n[\\fIoptions\\fR] [\\fIarguments\\fR]'),
    section(
      'DESCRIPTION',
      roff(
        'Sluice is the container runtime of a Kubernetes node. This tool shows what its daemon, sluiced(8), has and does.',
      ),
    ),
    section('COMMANDS', ...COMMANDS.map(commandText)),
    section(
      'EXIT STATUS',
      ...Object.values(EXIT).map(({ status, meaning }) => item(bold(String(status)), `${meaning}.`)),
    ),
    section(
      'ENVIRONMENT',
      item(bold('NO_COLOR'), 'When set, nothing is coloured. Colours are for terminals only in any case.'),
    ),
    section(
      'FILES',
      item(
        '\\fI/etc/sluice/config.toml\\fR, \\fI/etc/sluice/conf.d/*.toml\\fR',
        'The configuration: see sluice.toml(5).',
      ),
    ),
    section('SEE ALSO', '.BR sluiced (8),\n.BR sluice.toml (5)'),
  ].join('');
}

function commandText(command: Command): string {
  const args = (command.arguments ?? []).map(syntax).join(' ');
  const lines = [`.SS ${roff(`${command.name} ${args}`.trim())}`, roff(sentence(command.summary))];
  if (command.description) lines.push(roff(command.description));
  for (const { name, description } of command.arguments ?? [])
    lines.push(item(`\\fI${roff(name)}\\fR`, sentence(description)));
  for (const { flags, description } of optionsOf(command)) lines.push(item(bold(flags), sentence(description)));
  return lines.join('\n');
}

function sluiced(): string {
  return [
    section('NAME', 'sluiced \\- container runtime daemon for Kubernetes (CRI)'),
    section(
      'SYNOPSIS',
      '.B sluiced\n[\\fB\\-\\-config\\fR \\fIfile\\fR]\n.br\n.B sluiced \\-\\-version\n.br\n.B sluiced \\-\\-help',
    ),
    section(
      'DESCRIPTION',
      roff(
        'sluiced serves the Kubernetes Container Runtime Interface on a unix socket for the kubelet and crictl. It pulls images, makes pod networks through CNI plugins, and runs containers with runc or crun through containerd-shim-runc-v2. It runs in the foreground; the log goes to standard output as JSON lines, in the journal each under its priority.',
      ),
      '.PP',
      roff(
        'Pods do not end with the daemon: it finds them again at its next start. With a service manager it takes part in sd_notify(3), feeds a watchdog, and takes a listening socket (sd_listen_fds(3)).',
      ),
    ),
    section(
      'OPTIONS',
      item(
        `${bold('--config')} \\fIfile\\fR`,
        'The configuration; the folder conf.d beside it is read as well. Default: /etc/sluice/config.toml, or built-in defaults where that is absent.',
      ),
      item(bold('--version'), 'Print the version.'),
      item(`${bold('-h')}, ${bold('--help')}`, 'Print a line of help.'),
    ),
    section(
      'SIGNALS',
      item(bold('SIGTERM'), 'No new jobs, running ones finish (90 seconds at most), pods stay up. SIGINT likewise.'),
      item(bold('SIGHUP'), 'Read the configuration again, apply what can be applied, and log what needs a restart.'),
      item(bold('SIGUSR1'), 'Write a report of what the daemon does at the moment to the log.'),
      item(bold('SIGUSR2'), 'Switch the log between its configured level and debug.'),
    ),
    section(
      'FILES',
      item('\\fI/etc/sluice/config.toml\\fR', 'The configuration: see sluice.toml(5).'),
      item('\\fI/run/sluice/sluice.sock\\fR', 'The CRI socket.'),
      item('\\fI/var/lib/sluice\\fR', 'Images, snapshots, and the database of pods and containers.'),
      item('\\fI/run/sluice\\fR', 'Run-time state of pods.'),
    ),
    section('SEE ALSO', '.BR sluice (1),\n.BR sluice.toml (5),\n.BR crictl (1),\n.BR systemd.service (5)'),
  ].join('');
}

function configuration(): string {
  const keys = Object.entries(SCHEMA).map(([path, key]): [string, string, Key] => {
    const dot = path.lastIndexOf('.');
    return [dot < 0 ? '' : path.slice(0, dot), path.slice(dot + 1), key];
  });
  const tables = Object.entries(SECTIONS).map(([name, text]) => {
    const own = keys.filter(([table]) => table === name);
    return [
      `.SS ${name === '' ? 'Top level' : roff(`[${name}]`)}`,
      roff(text),
      ...own.map(([, key, { comment, live, ...rest }]) =>
        item(bold(key), `${comment} Default: ${defaultOf(rest)}.${live ? ' A reload applies it.' : ''}`),
      ),
    ].join('\n');
  });
  return [
    section('NAME', 'sluice.toml \\- configuration of sluiced'),
    section('SYNOPSIS', '.I /etc/sluice/config.toml\n.br\n.I /etc/sluice/conf.d/*.toml'),
    section(
      'DESCRIPTION',
      roff(
        'A TOML file, and drop-ins in the folder conf.d beside it, which are merged over it key by key in the order of their names; a list replaces a list as a whole. Without a file everything is at its default. A key that does not exist, a value of the wrong type and one out of range are errors, and the daemon does not start.',
      ),
      '.PP',
      roff(
        'sluice config check finds mistakes, sluice config show says where each value comes from, and systemctl reload sluiced applies what can be applied while pods run.',
      ),
    ),
    section('KEYS', ...tables),
    section('SEE ALSO', '.BR sluiced (8),\n.BR sluice (1)'),
  ].join('');
}

function defaultOf({ default: value, defaultText }: Omit<Key, 'comment' | 'live'>): string {
  if (defaultText !== undefined) return defaultText.replaceAll('`', '');
  const plain: KeyValue = typeof value === 'function' ? value({ cores: 1, name: 'runc' }) : value;
  return JSON.stringify(plain);
}

const sentence = (text: string) => `${text.slice(0, 1).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;
