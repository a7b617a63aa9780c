// The verdicts in words.
import type { AdapterReport, ModuleReport } from './report.ts'
import { isFlagged, type Verdict } from './saturation.ts'

type Judged = Pick<ModuleReport, 'verdict' | 'r' | 'rank' | 'recommendedRank' | 'tail'>

export function describeModule({ verdict, r, rank, recommendedRank, tail }: Judged): string {
  const missing = percent(tail / (1 + tail))
  switch (verdict) {
    case 'unused':
      return `the change is 0; leave the module out`
    case 'too-low':
      return `r too low here: the spectrum has not decayed at r=${r}, and data says that rank is missing; try ${recommendedRank}`
    case 'at-limit':
      return `r may be too low here: the spectrum has not decayed at r=${r}, up to ${missing} of what ${2 * r} would hold may be missing; try ${recommendedRank}, or let --data decide`
    case 'spare':
      return `r could be ${recommendedRank}${rank < r ? `; only ${rank} of ${r} directions are more than rounding` : ''}`
    case 'fits':
      return `r=${r} fits`
  }
}

export function describeAdapter(
  verdict: Verdict,
  modules: readonly Pick<ModuleReport, 'verdict' | 'r' | 'recommendedRank'>[],
  { comparison, ladder }: Pick<AdapterReport, 'comparison' | 'ladder'>,
): string {
  const data = `${comparison ? `; ${describeComparison(comparison)}` : ''}${ladder ? `; ${describeLadder(ladder)}` : ''}`
  const used = modules.filter((module) => module.verdict !== 'unused')
  const atLimit = used.filter((module) => isFlagged(module.verdict)).length
  switch (verdict) {
    case 'unused':
      return 'the adapter changes nothing'
    case 'too-low':
      return `r is too low: ${atLimit} of ${used.length} modules are at their limit${data}`
    case 'at-limit':
      return `r may be too low: ${atLimit} of ${used.length} modules are at their limit${data}`
    case 'spare': {
      const ranks = [
        ...new Set(used.filter((module) => module.verdict === 'spare').map((module) => module.recommendedRank)),
      ]
      const [least = 0, most = 0] = [Math.min(...ranks), Math.max(...ranks)]
      return `r could be ${least === most ? most : `${least} to ${most}`}${data}`
    }
    case 'fits':
      return `the ranks fit${data}`
  }
}

function describeComparison({ against, gain, share, evidence }: NonNullable<AdapterReport['comparison']>): string {
  const nats = `${signed(gain.value)} ± ${(2 * gain.standardError).toFixed(4)} nats a token`
  const than = `against the larger rank of ${against} the loss is higher by ${nats} (${percent(share)} of what that gains)`
  return evidence === 'undecided' ? `${than}, which decides nothing; give more data` : than
}

function describeLadder({ rungs, sufficient }: NonNullable<AdapterReport['ladder']>): string {
  const isLess = rungs.some(({ k }) => k === sufficient)
  return isLess
    ? `on the data its first ${sufficient} directions do what all of them do`
    : 'on the data half of its directions are not enough'
}

function signed(value: number): string {
  const text = Math.abs(value).toFixed(4)
  return value < 0 && Number(text) !== 0 ? `−${text}` : text
}

function percent(share: number): string {
  const text = Math.abs(100 * share).toFixed(1)
  return `${share < 0 && Number(text) !== 0 ? '−' : ''}${text} %`
}
