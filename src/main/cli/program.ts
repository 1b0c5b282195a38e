/** Runs a command line: commander takes it apart as the table of commands says. */
import { Command as Commander, CommanderError, Option as CommanderOption } from 'commander';
import { codeOf, explain, SluiceError } from '../../errors.ts';
import { VERSION } from '../../version.ts';
import { type Argument, type Call, type Command, EXIT, type Option, type Output, optionsOf } from './command.ts';
import { COMMANDS, GROUPS } from './commands.ts';

/** Runs the line; the result is the exit status. Errors go to `errors`. */
export async function runLine(
  argv: readonly string[],
  out: Output = process.stdout,
  errors: NodeJS.WritableStream = process.stderr,
): Promise<number> {
  try {
    return await dispatch(argv, out, errors);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok.status : EXIT.usage.status;
    errors.write(`sluice: ${explain(error)}\n`);
    return statusOf(error);
  }
}

/** As {@link runLine}, but throws what a command throws, and CommanderError for a line that is none. */
export async function dispatch(
  argv: readonly string[],
  out: Output,
  errors: NodeJS.WritableStream = process.stderr,
): Promise<number> {
  let status: number = EXIT.ok.status;
  const program = makeProgram(out, errors, async (command, call) => {
    status = await command.run(call);
  });
  if (argv.length === 0) program.help({ error: true });
  await program.parseAsync([...argv], { from: 'user' });
  return status;
}

/** Takes a line apart without running its command; throws CommanderError for one that is none. */
export async function parseLine(argv: readonly string[]): Promise<{ command: Command; call: Call }> {
  let parsed: { command: Command; call: Call } | undefined;
  const program = makeProgram(process.stdout, process.stderr, async (command, call) => {
    parsed = { command, call };
  });
  await program.parseAsync([...argv], { from: 'user' });
  if (!parsed) throw new Error(`${argv.join(' ')}: no command`);
  return parsed;
}

/** Exit status for what a command threw; a failed gRPC call has its number in `code`. */
function statusOf(error: unknown): number {
  const grpc = (error as { code?: unknown }).code;
  if (grpc === 5) return EXIT.missing.status;
  if (grpc === 14) return EXIT.unreachable.status;
  if (!(error instanceof SluiceError)) return EXIT.failed.status;
  switch (codeOf(error)) {
    case 'INVALID_REQUEST':
      return EXIT.usage.status;
    case 'NOT_READY':
      return EXIT.unreachable.status;
    case 'SANDBOX_NOT_FOUND':
    case 'CONTAINER_NOT_FOUND':
    case 'IMAGE_NOT_FOUND':
      return EXIT.missing.status;
    default:
      return EXIT.failed.status;
  }
}

type Run = (command: Command, call: Call) => Promise<void>;

function makeProgram(out: Output, errors: NodeJS.WritableStream, run: Run): Commander {
  const settle = (one: Commander) =>
    one
      .exitOverride()
      .configureOutput({
        writeOut: (text) => void out.write(text),
        writeErr: (text) => void errors.write(text),
        // As every other error of this program begins.
        outputError: (text, write) => write(text.replace(/^error: /, 'sluice: ')),
        getOutHelpWidth: () => out.columns ?? 100,
        getOutHasColors: () => false,
        getErrHasColors: () => false,
      })
      .showSuggestionAfterError()
      .helpOption('-h, --help', 'show help');
  const program = settle(new Commander('sluice'))
    .description('Looks at and into a running sluiced, and checks its configuration.')
    .version(`sluice ${VERSION}`, '-V, --version', 'print the version')
    .enablePositionalOptions()
    .helpCommand('help [command]', 'show help for a command')
    .addHelpText('after', `\nExit status:\n${statuses()}`);
  const groups = new Map(
    Object.entries(GROUPS).map(([name, summary]) => {
      const group = settle(new Commander(name)).description(summary).helpCommand(false);
      program.addCommand(group);
      return [name, group];
    }),
  );
  for (const command of COMMANDS) {
    const [first = '', second] = command.name.split(' ');
    const parent = second === undefined ? program : groups.get(first);
    if (!parent) throw new Error(`GROUPS has no ${first}`);
    const one = settle(new Commander(second ?? first)).summary(command.summary);
    one.description(command.description ? `${command.summary}\n\n${command.description}` : command.summary);
    for (const argument of command.arguments ?? []) one.argument(syntax(argument), argument.description);
    if (command.arguments?.some(({ rest }) => rest)) one.passThroughOptions();
    for (const option of optionsOf(command)) one.addOption(toCommander(option));
    one.action(async () => {
      const args = one.processedArgs.flatMap((value: string | string[] | undefined) => value);
      await run(command, { arguments: args, options: one.opts(), out });
    });
    parent.addCommand(one);
  }
  return program;
}

function toCommander({ flags, description, complete }: Option): CommanderOption {
  const option = new CommanderOption(flags, description);
  return typeof complete === 'object' ? option.choices([...complete]) : option;
}

/** `<pod>`, `[file]`, `[arguments...]`. */
export function syntax({ name, optional, rest, many }: Argument): string {
  const inner = rest || many ? `${name}...` : name;
  return optional ? `[${inner}]` : `<${inner}>`;
}

function statuses(): string {
  return Object.values(EXIT)
    .map(({ status, meaning }) => `  ${status}  ${meaning}`)
    .join('\n');
}
