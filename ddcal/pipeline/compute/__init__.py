"""Computing the stages, with torch: one module a stage, whose settings and costs are in `ddcal.pipeline.stages`."""
