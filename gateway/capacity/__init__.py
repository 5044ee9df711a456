"""How many engines a load needs: from traffic, engines' measured speed, versions and ranks. Pure but for measuring."""
