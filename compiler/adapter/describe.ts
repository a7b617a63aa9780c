// What the manifest says of an adapter: its entry, and the coverage report that accounts for every tensor.
import type { AdapterEntry, Manifest } from '../contract.ts'
import type { WeightedAdapter } from './read-all.ts'

/** `file` only where it was written. */
export function describeAdapter(adapter: WeightedAdapter, digest: string, file?: string): AdapterEntry {
  const modules = adapter.modules.map(
    ({ linear, r, scaling }) => [linear.module, { r, scaling: scaling * adapter.weight }] as const,
  )
  return {
    name: adapter.name,
    digest,
    r: Math.max(...adapter.modules.map(({ r }) => r)),
    loraAlpha: adapter.loraAlpha,
    useRslora: adapter.useRslora,
    weight: adapter.weight,
    modules: Object.fromEntries(modules),
    ...(file === undefined ? {} : { file }),
  }
}

export function coverageOf(adapter: WeightedAdapter): Manifest['coverage'] {
  return adapter.modules.flatMap(({ linear, tensors }) =>
    tensors.map((tensor) => ({
      adapter: adapter.name,
      tensor,
      module: linear.module,
      evidence: 'checkpoint-name' as const,
    })),
  )
}
