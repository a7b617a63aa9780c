// Combined adapters for PEFT to load: test/parity/combine-oracle.py calls this, and a test checks what it then stored.
import { join } from 'node:path'
import { combineModules } from '../../compiler/combine/combine.ts'
import type { CombineOptions } from '../../compiler/combine/options.ts'
import { writePeft } from '../../compiler/combine/write-peft.ts'
import { stageFolder } from '../../runtime/disk.ts'
import { oracleInputs, readInfo } from './adapters.ts'

/** By PEFT's names for the cases, so that the script can ask PEFT for the same combination. */
const WRITTEN: Record<string, CombineOptions> = {
  cat: {},
  dare_linear: { method: 'dare_linear', seed: 42, peftCompat: true },
  linear: { method: 'linear', peftCompat: true },
  svd: { method: 'svd' },
  'ties_svd.total': { method: 'ties_svd', peftCompat: true },
}

/** One folder a case. */
export async function writeForPeft(folder: string): Promise<string[]> {
  const { cases } = readInfo('peft')
  for (const [name, options] of Object.entries(WRITTEN)) {
    const { adapters, svd_rank: rank, density } = cases[name]!
    const inputs = await oracleInputs(adapters)
    const result = combineModules(inputs, { ...options, ...(rank && { rank }), ...(density && { density }) })
    const staged = await stageFolder(join(folder, name))
    const weights = Object.fromEntries(inputs.map((input) => [input.name, input.weight]))
    await writePeft(result, { baseModelNameOrPath: 'sidepath/tiny-base', taskType: 'CAUSAL_LM', weights }, staged)
    await staged.commit()
  }
  return Object.keys(WRITTEN)
}
