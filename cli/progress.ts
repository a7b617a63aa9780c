// A progress bar on stderr, where stderr is a terminal; nothing elsewhere, so that logs and pipes stay clean.

/** Loaded only where it has something to show: it costs every other run time and memory. */
const cliProgress = process.stderr.isTTY ? await import('cli-progress') : undefined

export interface Progress {
  update(stage: string, doneBytes: number, totalBytes: number): void
  stop(): void
}

const MIB = 2 ** 20

export function startProgress(enabled: boolean): Progress {
  if (!enabled || cliProgress === undefined) return { update: () => {}, stop: () => {} }
  const bar = new cliProgress.SingleBar(
    {
      format: '{stage} {bar} {percentage}% | {value}/{total} MiB | {eta_formatted} left',
      stream: process.stderr,
      hideCursor: true,
      clearOnComplete: true,
      linewrap: false,
    },
    cliProgress.Presets.shades_classic,
  )
  let started = false
  return {
    update(stage, doneBytes, totalBytes) {
      const total = Math.max(1, Math.ceil(totalBytes / MIB))
      if (!started) bar.start(total, 0, { stage })
      started = true
      bar.setTotal(total)
      bar.update(Math.min(total, Math.round(doneBytes / MIB)), { stage })
    },
    stop: () => bar.stop(),
  }
}
