// A compiled artifact: its manifest, coverage, and the figures of its last verification.

import { isEncoder } from '../contract.ts'
import type { Folder, Host } from '../host.ts'
import { readAnyArtifact } from '../read-artifact.ts'
import { readJson } from '../read-file.ts'
import { VERIFICATION_FILE } from '../verify/findings.ts'
import type { Inspection, Row } from './inspection.ts'

export async function inspectArtifact(folder: Folder, host: Host): Promise<Inspection> {
  const { id, manifest } = await readAnyArtifact(folder, host)
  const { base, adapters, coverage, files, bank, stack = [] } = manifest
  const { facts: verified, notes } = await readVerification(folder, id)
  return {
    kind: 'artifact',
    name: folder.name,
    facts: {
      id,
      target: manifest.target,
      schema: manifest.schema,
      base: base.digest,
      ...base.architecture,
      dtype: manifest.dtype,
      opset: manifest.opset,
      ...(isEncoder(manifest)
        ? {
            task: manifest.task,
            max_tokens: manifest.maxTokens,
            ...(manifest.pooling && {
              pooling: manifest.pooling.modes,
              normalized: String(manifest.pooling.normalize),
            }),
            ...(manifest.labels && { labels: manifest.labels }),
          }
        : { eos_token_ids: manifest.base.eosTokenIds }),
      linears_with_low_rank_path: bank.length + stack.length,
      bytes: files.reduce((sum, file) => sum + file.bytes, 0),
      ...verified,
    },
    tables: {
      adapters: adapters.map(({ name, r, loraAlpha, useRslora, weight, modules, digest }) => ({
        name,
        r,
        lora_alpha: loraAlpha,
        use_rslora: String(useRslora),
        weight,
        modules: Object.keys(modules).length,
        tensors: coverage.filter((line) => line.adapter === name).length,
        digest,
      })),
      modules: adapters.flatMap(({ name, modules }) =>
        Object.entries(modules).map(([module, { r, scaling }]) => ({ adapter: name, module, r, scaling })),
      ),
      coverage: coverage.map(({ adapter, tensor, module, evidence }) => ({ adapter, tensor, module, evidence })),
      files: files.map(({ path, bytes, sha256 }) => ({ path, bytes, sha256 })),
    },
    notes,
  }
}

/** The sidecar, which the manifest does not cover: believed as far as it goes. */
async function readVerification(folder: Folder, id: string): Promise<{ facts: Row; notes: string[] }> {
  const json = await readJson(folder, VERIFICATION_FILE)
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    return { facts: {}, notes: ['it was not verified when it was compiled; run `sidepath verify` on it'] }
  }
  if (json.artifact !== id) {
    return { facts: {}, notes: [`${VERIFICATION_FILE} is of another artifact; run \`sidepath verify\` on this one`] }
  }
  const comparisons = Array.isArray(json.comparisons) ? json.comparisons.length : 0
  return { facts: { verified: json.ok === true ? `yes, ${comparisons} comparisons` : 'no' }, notes: [] }
}
