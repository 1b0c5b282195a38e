/**
 * A stand-in for a class or interface that has the given members only. Reading any other one throws, so that a test
 * fails where the code under test begins to use more. `what` names it in that error.
 */
export function fake<T extends object>(what: string, members: Partial<T>): T {
  return new Proxy(members, {
    get(target, key) {
      // Promises look for `then`, and node:assert for symbols.
      if (key in target || typeof key === 'symbol' || key === 'then') return Reflect.get(target, key);
      throw new Error(`the fake ${what} has no ${key}`);
    },
  }) as T;
}
