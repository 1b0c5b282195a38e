/**
 * Spreads what follows from the answers of threads over turns of the event loop. Node hands over all answers that have
 * come before anything else gets its turn: while dozens of pods are launched, what each of them goes on with would add
 * up to tens of milliseconds in which no list is answered.
 */
import { afterwards, BUDGET_MS, turnNumber } from './turn.ts';

let turnOfBudget = -1;
/** performance.now() at which this turn's budget ends. */
let until = 0;
let waiting: (() => void)[] = [];
let planned = false;

/**
 * Undefined while this turn has time left, which it has for what comes alone; else a promise that resolves in a later
 * turn, in the order of the calls.
 */
export function breath(): Promise<void> | undefined {
  const now = performance.now();
  const turn = turnNumber();
  if (turn !== turnOfBudget) {
    turnOfBudget = turn;
    until = now + BUDGET_MS;
  }
  if (now < until && waiting.length === 0) return undefined;
  const { promise, resolve } = Promise.withResolvers<void>();
  waiting.push(resolve);
  plan();
  return promise;
}

function plan(): void {
  if (planned) return;
  planned = true;
  setImmediate(turn);
}

function turn(): void {
  planned = false;
  until = performance.now() + BUDGET_MS;
  const due = waiting;
  waiting = [];
  next(due, 0);
}

/** One goes on, and the next one when all that follows from it at once is done, until the turn is over. */
function next(due: (() => void)[], at: number): void {
  if (at === due.length) return;
  if (at > 0 && performance.now() >= until) {
    waiting = [...due.slice(at), ...waiting];
    plan();
    return;
  }
  due[at]?.();
  afterwards(() => next(due, at + 1));
}
