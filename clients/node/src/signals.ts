// Abort signals: one listener serves all calls of a signal, which may be many at a time.

type Watched = { readonly hooks: Set<() => void>; readonly listener: () => void };

const watched = new WeakMap<AbortSignal, Watched>();

/** Call `hook` when the signal is aborted. It must not have been yet. */
export function watch(signal: AbortSignal | undefined, hook: () => void): void {
  if (signal === undefined) return;
  let found = watched.get(signal);
  if (found === undefined) {
    const hooks = new Set<() => void>();
    found = { hooks, listener: () => [...hooks].forEach((one) => void one()) };
    watched.set(signal, found);
    signal.addEventListener("abort", found.listener);
  }
  found.hooks.add(hook);
}

/** No more. */
export function unwatch(signal: AbortSignal | undefined, hook: () => void): void {
  const found = signal === undefined ? undefined : watched.get(signal);
  if (signal === undefined || found === undefined || !found.hooks.delete(hook) || found.hooks.size > 0) return;
  watched.delete(signal);
  signal.removeEventListener("abort", found.listener);
}
