/** `sluice completion`: scripts with which a shell completes commands, options, and ids of pods and containers. */
import { type Argument, type Command, type Completion, EXIT, type Option, optionsOf } from './command.ts';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** The command, of a table that it stands in itself. */
export function completionOf(commands: () => readonly Command[], groups: () => Record<string, string>): Command {
  return {
    name: 'completion',
    summary: 'print a completion script for a shell',
    description: 'The packages install these. By hand: eval "$(sluice completion bash)".',
    arguments: [{ name: 'shell', description: SHELLS.join(', '), complete: SHELLS }],
    run({ arguments: [shell = ''], out }) {
      const write = WRITERS[shell as Shell];
      if (!write) {
        process.stderr.write(`sluice: no completion for "${shell}"; there is ${SHELLS.join(', ')}\n`);
        return EXIT.usage.status;
      }
      out.write(write(commands(), groups()));
      return EXIT.ok.status;
    },
  };
}

const WRITERS: Record<Shell, (commands: readonly Command[], groups: Record<string, string>) => string> = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
};

export const completionScript = (shell: Shell, commands: readonly Command[], groups: Record<string, string>): string =>
  WRITERS[shell](commands, groups);

/** How a shell gets what an argument may be; ids are asked of the daemon, which may not run. */
function listing(complete: Completion | undefined): string {
  if (complete === undefined || complete === 'file') return '';
  if (complete === 'pod') return '$(sluice pods -q 2>/dev/null)';
  if (complete === 'container') return '$(sluice ps -a -q 2>/dev/null)';
  return complete.join(' ');
}

const names = (flags: string) => flags.match(/--?[A-Za-z][\w-]*/g) ?? [];
const takesValue = ({ flags }: Option) => flags.includes('<');

/** First words, each with what is said of it. */
function firstWords(commands: readonly Command[], groups: Record<string, string>): [string, string][] {
  const single = commands
    .filter(({ name }) => !name.includes(' '))
    .map(({ name, summary }): [string, string] => [name, summary]);
  return [...single, ...Object.entries(groups), ['help', 'show help for a command']];
}

const secondWords = (commands: readonly Command[], group: string): [string, string][] =>
  commands
    .filter(({ name }) => name.startsWith(`${group} `))
    .map(({ name, summary }) => [name.slice(group.length + 1), summary]);

function bashCompletion(commands: readonly Command[], groups: Record<string, string>): string {
  const words = (list: [string, string][]) => list.map(([word]) => word).join(' ');
  const paths = [...commands.map(({ name }) => name), ...Object.keys(groups)].map((path) => `" ${path}"`).join('|');
  const cases = commands.map((command) => {
    const options = optionsOf(command);
    const values = options.filter(takesValue).map((option) => {
      const list = listing(option.complete);
      const reply =
        list === ''
          ? option.complete === 'file'
            ? 'COMPREPLY=($(compgen -f -- "$cur"))'
            : 'COMPREPLY=()'
          : `COMPREPLY=($(compgen -W "${list}" -- "$cur"))`;
      return `          ${names(option.flags).join('|')}) ${reply}; return ;;`;
    });
    const [argument] = command.arguments ?? [];
    const flags = [...options.flatMap(({ flags }) => names(flags)), '--help'].join(' ');
    return `    " ${command.name}")
      case "$prev" in
${values.join('\n') || '          "") ;;'}
      esac
      if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "${flags}" -- "$cur"))
      else ${argumentReply(argument)}; fi ;;`;
  });
  const groupCases = Object.keys(groups).map(
    (group) => `    " ${group}") COMPREPLY=($(compgen -W "${words(secondWords(commands, group))}" -- "$cur")) ;;`,
  );
  return `# Completion of sluice for bash.
_sluice() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} path= word i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "$path $word" in ${paths}) path="$path $word" ;; esac
  done
  case "$path" in
    "") COMPREPLY=($(compgen -W "${words(firstWords(commands, groups))} --help --version" -- "$cur")) ;;
${groupCases.join('\n')}
${cases.join('\n')}
  esac
}
complete -F _sluice sluice
`;
}

function argumentReply(argument: Argument | undefined): string {
  if (!argument) return 'COMPREPLY=()';
  if (argument.complete === 'file') return 'COMPREPLY=($(compgen -f -- "$cur"))';
  return `COMPREPLY=($(compgen -W "${listing(argument.complete)}" -- "$cur"))`;
}

function zshCompletion(commands: readonly Command[], groups: Record<string, string>): string {
  const quote = (text: string) => text.replaceAll("'", "'\\''").replaceAll(':', '\\:');
  const described = (list: [string, string][]) =>
    list.map(([word, summary]) => `'${word}:${quote(summary)}'`).join(' ');
  const bracket = (text: string) => text.replaceAll("'", "'\\''").replace(/([[\]])/g, '\\$1');
  const action = (complete: Completion | undefined) => {
    if (complete === 'file') return '_files';
    const list = listing(complete);
    return list === '' ? ' ' : list.startsWith('$') ? `{compadd -- ${list}}` : `(${list})`;
  };
  const spec = (command: Command) => {
    const options = optionsOf(command).flatMap((option) =>
      names(option.flags).map((flag) => {
        const value = takesValue(option)
          ? `:${/<([^>]+)>/.exec(option.flags)?.[1]?.replaceAll(':', '\\:') ?? ''}:${action(option.complete)}`
          : '';
        return `'${flag}[${bracket(option.description)}]${value}'`;
      }),
    );
    const args = (command.arguments ?? []).map(
      ({ name, complete, rest, many, optional }) =>
        `'${rest || many ? '*' : ''}:${optional ? ':' : ''}${name}:${action(complete)}'`,
    );
    return `      _arguments ${[...options, ...args].join(' ')}`;
  };
  const single = commands
    .filter(({ name }) => !name.includes(' '))
    .map((command) => `    ${command.name})\n${spec(command)} ;;`);
  const grouped = Object.keys(groups).map((group) => {
    const own = commands.filter(({ name }) => name.startsWith(`${group} `));
    const inner = own.map((command) => `      ${command.name.slice(group.length + 1)})\n  ${spec(command)} ;;`);
    return `    ${group})
      if (( CURRENT == 2 )); then local -a subs=(${described(secondWords(commands, group))}); _describe command subs; return; fi
      shift words; (( CURRENT-- ))
      case $words[1] in
${inner.join('\n')}
      esac ;;`;
  });
  return `#compdef sluice
# Completion of sluice for zsh.
_sluice() {
  if (( CURRENT == 2 )); then
    local -a commands=(${described(firstWords(commands, groups))})
    _describe command commands
    return
  fi
  shift words; (( CURRENT-- ))
  case $words[1] in
${[...single, ...grouped].join('\n')}
  esac
}
if [ "$funcstack[1]" = _sluice ]; then _sluice "$@"; else compdef _sluice sluice; fi
`;
}

function fishCompletion(commands: readonly Command[], groups: Record<string, string>): string {
  const quote = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const ask = (complete: Completion | undefined) => {
    const list = listing(complete);
    return list.startsWith('$') ? list.slice(1) : list;
  };
  const lines = ['# Completion of sluice for fish.', 'complete -c sluice -f'];
  for (const [word, summary] of firstWords(commands, groups))
    lines.push(`complete -c sluice -n __fish_use_subcommand -a ${word} -d ${quote(summary)}`);
  for (const group of Object.keys(groups)) {
    const seconds = secondWords(commands, group);
    const none = `__fish_seen_subcommand_from ${group}; and not __fish_seen_subcommand_from ${seconds.map(([word]) => word).join(' ')}`;
    for (const [word, summary] of seconds)
      lines.push(`complete -c sluice -n ${quote(none)} -a ${word} -d ${quote(summary)}`);
  }
  for (const command of commands) {
    const when = quote(
      command.name
        .split(' ')
        .map((word) => `__fish_seen_subcommand_from ${word}`)
        .join('; and '),
    );
    for (const option of optionsOf(command)) {
      const flags = names(option.flags).map((flag) =>
        flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`,
      );
      const list = ask(option.complete);
      const value = !takesValue(option)
        ? ''
        : option.complete === 'file'
          ? ' -r -F'
          : list === ''
            ? ' -x'
            : ` -x -a ${quote(list)}`;
      lines.push(`complete -c sluice -n ${when} ${flags.join(' ')}${value} -d ${quote(option.description)}`);
    }
    const [argument] = command.arguments ?? [];
    if (argument?.complete === 'file') lines.push(`complete -c sluice -n ${when} -F`);
    else if (argument?.complete) lines.push(`complete -c sluice -n ${when} -a ${quote(ask(argument.complete))}`);
  }
  return `${lines.join('\n')}\n`;
}
