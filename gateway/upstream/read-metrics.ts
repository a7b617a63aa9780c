// Gauges out of Prometheus' text format, as far as a router needs them.

export interface Sample {
  readonly labels: ReadonlyMap<string, string>
  readonly value: number
}

const LINE = /^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? +([^ ]+)(?: +-?\d+)?$/
const LABEL = /([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"/g

export function readSamples(text: string, name: string): Sample[] {
  const samples: Sample[] = []
  for (const line of text.split('\n')) {
    if (!line.startsWith(name)) continue
    const [, found, labels = '', value] = LINE.exec(line.trimEnd()) ?? []
    if (found !== name || !Number.isFinite(Number(value))) continue
    const pairs = [...labels.matchAll(LABEL)].map(([, key = '', raw = '']): [string, string] => [
      key,
      raw.replaceAll(/\\(.)/g, (_, char: string) => (char === 'n' ? '\n' : char)),
    ])
    samples.push({ labels: new Map(pairs), value: Number(value) })
  }
  return samples
}

/** Over all series, since one server may have several engines. */
export function sumOf(text: string, ...names: readonly string[]): number {
  return names.flatMap((name) => readSamples(text, name)).reduce((sum, { value }) => sum + value, 0)
}
