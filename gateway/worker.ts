// The Worker's entry: the gateway with the real clock and the real network.
import { createApp } from './app.ts'
import { realWorld } from './real-world.ts'

export default createApp(realWorld)
